//! The people of the demo: who can sign in, and the groups they are in.

use aws_lc_rs::constant_time::verify_slices_are_equal;

/// Somebody who can sign in at the demo's provider. The password is the user name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Person {
    /// The user name, and the password.
    pub username: &'static str,
    /// The name in full.
    pub name: &'static str,
    /// The e-mail address.
    pub email: &'static str,
    /// The groups.
    pub groups: &'static [&'static str],
}

/// Everybody.
pub const PEOPLE: [Person; 3] = [
    Person { username: "alice", name: "Alice Archer", email: "alice@example.com", groups: &["admins", "engineering"] },
    Person { username: "bob", name: "Bob Baker", email: "bob@example.com", groups: &["engineering"] },
    Person { username: "carol", name: "Carol Carter", email: "carol@example.com", groups: &["sales"] },
];

impl Person {
    /// The person with this user name.
    pub fn named(username: &str) -> Option<&'static Self> {
        PEOPLE.iter().find(|person| person.username == username)
    }

    /// The person with this user name or e-mail address, if the password is theirs.
    pub fn with_password(username: &str, password: &str) -> Option<&'static Self> {
        let username = username.trim().to_ascii_lowercase();
        let person = PEOPLE.iter().find(|person| person.username == username || person.email == username)?;
        verify_slices_are_equal(person.username.as_bytes(), password.as_bytes()).ok().map(|()| person)
    }

    /// `sub`: stable, and no e-mail address.
    pub fn subject(&self) -> String {
        format!("demo-{}", self.username)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_own_password_opens() {
        for person in &PEOPLE {
            assert_eq!(Person::with_password(person.username, person.username), Some(person));
            assert_eq!(Person::with_password(person.email, person.username), Some(person));
            for wrong in ["", "alicebob", "ALICE", person.email] {
                assert_eq!(Person::with_password(person.username, wrong), None, "{wrong}");
            }
        }
        assert_eq!(Person::with_password("alice", "bob"), None);
        assert_eq!(Person::with_password("dave", "dave"), None);
    }
}
