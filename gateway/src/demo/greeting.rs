//! What the demo says when it is ready: where to go, as whom, how to trust it, how to stop it.

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::Path;

use super::configuration::{ROUTES, origin};
use super::people::PEOPLE;

/// What the greeting tells of.
pub struct Place<'a> {
    /// Where the gateway listens, or will.
    pub gateway: SocketAddr,
    /// The provider's issuer.
    pub issuer: &'a str,
    /// The data directory.
    pub dir: &'a Path,
    /// Whether the directory stays.
    pub kept: bool,
    /// The authority's certificate.
    pub ca: &'a Path,
    /// The configuration to run on.
    pub config: &'a Path,
    /// Whether the gateway is somebody else's business.
    pub peers_only: bool,
}

/// The text, with a line end.
pub fn text(place: &Place<'_>) -> Result<String, std::fmt::Error> {
    let port = place.gateway.port();
    let mut text = String::new();
    if place.peers_only {
        writeln!(text, "\nThe peers of the Portcullis demo are up. Start the gateway beside them:\n")?;
        writeln!(text, "  portcullis run -c {}\n", shell(place.config))?;
    } else {
        writeln!(text, "\nThe Portcullis demo is up.\n")?;
    }
    for route in &ROUTES {
        writeln!(text, "  {:<31} {}", format!("{}/", origin(&route.host(), port)), route.whom())?;
    }
    writeln!(text, "\nWho can sign in, at {} (the password is the name):\n", place.issuer)?;
    for person in &PEOPLE {
        let sees: Vec<&str> =
            ROUTES.iter().filter(|route| route.access.admits(person)).map(|route| route.name).collect();
        let groups = person.groups.join(", ");
        writeln!(text, "  {:<7} groups {groups:<20} may see {}", person.username, sees.join(", "))?;
    }
    let ca = shell(place.ca);
    writeln!(text, "\nThe certificate is the demo's own. To trust it, for localhost names only:\n")?;
    writeln!(text, "  curl      --cacert {ca}")?;
    writeln!(text, "  a browser import that file among its authorities, or accept its warning for each host")?;
    writeln!(text, "\nA request without signing in, and a whole sign-in, with curl:\n")?;
    text.push_str(&curl(place, &ca));
    if place.kept {
        writeln!(text, "\nThe data is kept in {}.", place.dir.display())?;
    } else {
        let dir = place.dir.display();
        writeln!(text, "\nThe data is in {dir} and goes when the demo stops; --data-dir DIR keeps it.")?;
    }
    writeln!(text, "Ctrl-C stops it.")?;
    Ok(text)
}

/// The sign-in is two requests, to the sign-in page and with its form back to the application; then one that is let in.
fn curl(place: &Place<'_>, ca: &str) -> String {
    let at = |name: &str| origin(&format!("{name}.localhost"), place.gateway.port());
    let (app, public, issuer) = (at("app"), at("public"), place.issuer);
    let jar = shell(&place.dir.join("curl.cookies"));
    format!(
        "  curl --cacert {ca} {public}/

  c() {{ curl -sS --cacert {ca} -b {jar} -c {jar} \"$@\"; }}
  form=$(c -L -H 'Accept: text/html' {app}/ | sed -n 's/.*name=\"form\" value=\"\\([^\"]*\\)\".*/\\1/p')
  c -L -o /dev/null -d username=alice -d password=alice -d \"form=$form\" {issuer}/sign_in
  c {app}/\n"
    )
}

/// A path as a word of a shell.
fn shell(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+".contains(&byte);
    if text.bytes().all(plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(peers_only: bool) -> Place<'static> {
        Place {
            gateway: "127.0.0.1:8443".parse().unwrap(),
            issuer: "http://127.0.0.1:4000",
            dir: Path::new("/tmp/it's here"),
            kept: false,
            ca: Path::new("/tmp/ca.pem"),
            config: Path::new("/tmp/demo.yaml"),
            peers_only,
        }
    }

    #[test]
    fn the_greeting_says_where_to_go_as_whom_and_how_to_trust_it() {
        let text = text(&place(false)).unwrap();
        for said in [
            "https://app.localhost:8443/",
            "https://admin.localhost:8443/",
            "https://bob.localhost:8443/",
            "https://public.localhost:8443/",
            "alice   groups admins, engineering  may see app, admin, public",
            "carol   groups sales                may see app, public",
            "--cacert /tmp/ca.pem",
            r"'/tmp/it'\''s here/curl.cookies'",
            "Ctrl-C",
        ] {
            assert!(text.contains(said), "{said}\n{text}");
        }
        assert!(!text.contains("portcullis run"));
    }

    #[test]
    fn beside_peers_the_gateway_is_started_by_the_line_that_is_printed() {
        assert!(text(&place(true)).unwrap().contains("  portcullis run -c /tmp/demo.yaml\n"));
    }
}
