//! The cookie jar of a browser (RFC 6265bis), as far as our cookies and those of the providers need one.

use std::collections::BTreeMap;

use url::Url;

/// What a browser keeps.
#[derive(Debug, Clone, Default)]
pub struct Jar {
    cookies: BTreeMap<(String, String, String), Cookie>,
}

/// One cookie.
#[derive(Debug, Clone)]
pub struct Cookie {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
    /// The host that set it, or the domain it was set for.
    pub domain: String,
    /// Whether only that very host gets it.
    pub host_only: bool,
    /// The paths it is for.
    pub path: String,
    /// Whether it travels by TLS alone.
    pub secure: bool,
    /// Whether scripts cannot see it.
    pub http_only: bool,
    /// `SameSite`, as it was written.
    pub same_site: Option<String>,
    /// `Max-Age`, in seconds.
    pub max_age: Option<i64>,
}

impl Jar {
    /// Takes a `Set-Cookie` that came from `url`. One that a browser would refuse is dropped.
    pub fn set(&mut self, url: &Url, line: &str) {
        let Some(cookie) = Cookie::parse(url, line) else { return };
        let key = (cookie.name.clone(), cookie.domain.clone(), cookie.path.clone());
        let ended = cookie.max_age.is_some_and(|age| age <= 0) || expired(line);
        if ended {
            self.cookies.remove(&key);
        } else {
            self.cookies.insert(key, cookie);
        }
    }

    /// The `Cookie` header for a request to `url`; longer paths first.
    #[must_use]
    pub fn header(&self, url: &Url) -> Option<String> {
        let mut fitting: Vec<&Cookie> = self.cookies.values().filter(|cookie| cookie.fits(url)).collect();
        fitting.sort_by_key(|cookie| std::cmp::Reverse(cookie.path.len()));
        let pairs: Vec<String> = fitting.iter().map(|cookie| format!("{}={}", cookie.name, cookie.value)).collect();
        (!pairs.is_empty()).then(|| pairs.join("; "))
    }

    /// All cookies of this name, whatever host they are for.
    #[must_use]
    pub fn named(&self, name: &str) -> Vec<Cookie> {
        self.cookies.values().filter(|cookie| cookie.name == name).cloned().collect()
    }

    /// The cookie of this name that `url` would get.
    #[must_use]
    pub fn at(&self, url: &Url, name: &str) -> Option<Cookie> {
        self.cookies.values().find(|cookie| cookie.name == name && cookie.fits(url)).cloned()
    }

    /// All cookies.
    pub fn iter(&self) -> impl Iterator<Item = &Cookie> {
        self.cookies.values()
    }

    /// Puts a cookie in as an attacker or a developer's console would.
    pub fn plant(&mut self, cookie: Cookie) {
        self.cookies.insert((cookie.name.clone(), cookie.domain.clone(), cookie.path.clone()), cookie);
    }

    /// Forgets every cookie for which `which` is true.
    pub fn forget(&mut self, which: impl Fn(&Cookie) -> bool) {
        self.cookies.retain(|_, cookie| !which(cookie));
    }
}

impl Cookie {
    fn parse(url: &Url, line: &str) -> Option<Self> {
        let host = url.host_str()?.to_ascii_lowercase();
        let mut parts = line.split(';').map(str::trim);
        let (name, value) = parts.next()?.split_once('=')?;
        let mut cookie = Self {
            name: name.to_owned(),
            value: value.to_owned(),
            domain: host.clone(),
            host_only: true,
            path: default_path(url),
            secure: false,
            http_only: false,
            same_site: None,
            max_age: None,
        };
        for attribute in parts {
            let (key, value) = attribute.split_once('=').unwrap_or((attribute, ""));
            match key.to_ascii_lowercase().as_str() {
                "secure" => cookie.secure = true,
                "httponly" => cookie.http_only = true,
                "samesite" => cookie.same_site = Some(value.to_owned()),
                "path" if value.starts_with('/') => value.clone_into(&mut cookie.path),
                "max-age" => cookie.max_age = value.parse().ok(),
                "domain" if !value.is_empty() => {
                    cookie.domain = value.trim_start_matches('.').to_ascii_lowercase();
                    cookie.host_only = false;
                }
                _ => {}
            }
        }
        cookie.may_be_set(url, &host).then_some(cookie)
    }

    /// RFC 6265bis §5.7: what a host may not set.
    fn may_be_set(&self, url: &Url, host: &str) -> bool {
        let by_tls = url.scheme() == "https";
        let host_prefix = self.name.starts_with("__Host-");
        let within = host == self.domain || host.ends_with(&format!(".{}", self.domain));
        // one label alone is a public suffix
        let public = !self.host_only && !self.domain.contains('.') && host != self.domain;
        // a longer one is ignored, whatever it says
        let short = self.name.len() + self.value.len() <= 4096;
        within
            && short
            && !public
            && (by_tls || !self.secure)
            && (self.secure || !(host_prefix || self.name.starts_with("__Secure-")))
            && (!host_prefix || (self.host_only && self.path == "/"))
            && (self.secure || self.same_site.as_deref().is_none_or(|site| !site.eq_ignore_ascii_case("none")))
    }

    fn fits(&self, url: &Url) -> bool {
        let Some(host) = url.host_str() else { return false };
        let at_home = host == self.domain || (!self.host_only && host.ends_with(&format!(".{}", self.domain)));
        let path = url.path();
        let below = path
            .strip_prefix(&self.path)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || self.path.ends_with('/'));
        at_home && below && (!self.secure || url.scheme() == "https")
    }
}

/// RFC 6265 §5.1.4.
fn default_path(url: &Url) -> String {
    match url.path().rfind('/') {
        None | Some(0) => "/".to_owned(),
        Some(end) => url.path().get(..end).unwrap_or("/").to_owned(),
    }
}

/// Whether `Expires` is the date by which servers end a cookie.
fn expired(line: &str) -> bool {
    line.split(';').map(str::trim).any(|part| {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        key.eq_ignore_ascii_case("expires") && value.contains(" 1970 ")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn a_cookie_goes_where_a_browser_would_send_it() {
        let mut jar = Jar::default();
        jar.set(&url("https://app.example.com/a/b"), "host=1; Secure; Path=/");
        jar.set(&url("https://app.example.com/a/b"), "wide=2; Secure; Path=/; Domain=example.com");
        jar.set(&url("https://app.example.com/a/b"), "deep=3");
        assert_eq!(jar.header(&url("https://app.example.com/a/c")).as_deref(), Some("deep=3; host=1; wide=2"));
        assert_eq!(jar.header(&url("https://other.example.com/")).as_deref(), Some("wide=2"));
        assert_eq!(jar.header(&url("http://app.example.com/a/")).as_deref(), Some("deep=3"));
        assert_eq!(jar.header(&url("https://notexample.com/")), None);
        jar.set(&url("https://app.example.com/"), "host=; Secure; Path=/; Max-Age=0");
        assert_eq!(jar.header(&url("https://app.example.com/")).as_deref(), Some("wide=2"));
    }

    #[test]
    fn a_host_cookie_keeps_the_rules_of_its_name() {
        let mut jar = Jar::default();
        let here = url("https://app.example.com/");
        for line in [
            "__Host-a=1; Path=/",
            "__Host-b=1; Secure; Path=/; Domain=example.com",
            "__Host-c=1; Secure; Path=/x",
            "d=1; SameSite=None",
            "e=1; Domain=com",
            "f=1; Domain=evil.example",
        ] {
            jar.set(&here, line);
        }
        jar.set(&here, &format!("long={}; Secure", "x".repeat(4096)));
        jar.set(&url("http://app.example.com/"), "g=1; Secure");
        assert_eq!(jar.header(&here), None);
        jar.set(&here, "__Host-h=1; Secure; Path=/");
        assert_eq!(jar.header(&here).as_deref(), Some("__Host-h=1"));
    }
}
