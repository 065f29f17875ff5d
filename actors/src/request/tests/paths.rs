//! Paths: one spelling, what is refused outright, and what is odd.

use portcullis_config::{EscapedSlashes, Reading};
use proptest::prelude::*;

use super::super::BadRequest;
use super::Head;

#[test]
fn a_path_has_one_spelling() {
    for (came, canonical) in [
        ("/", "/"),
        ("/admin", "/admin"),
        ("/admin/", "/admin/"),
        ("/%61dmin", "/admin"),
        ("/%41%7e%2D", "/A~-"),
        ("//admin", "/admin"),
        ("/an//example", "/an/example"),
        ("///", "/"),
        ("/./admin", "/admin"),
        ("/admin/.", "/admin/"),
        ("/admin/..", "/"),
        ("/public/../admin", "/admin"),
        ("/public//../admin", "/admin"),
        ("/public/%2e%2E/admin", "/admin"),
        ("/public/.%2e/admin", "/admin"),
        ("/../../admin", "/admin"),
        ("/a/b/../../..", "/"),
        ("/a/./b/", "/a/b/"),
        ("/.pomerium/", "/.pomerium/"),
        ("/%2epomerium/", "/.pomerium/"),
        ("/x/../.pomerium", "/.pomerium"),
        ("/...", "/..."),
        ("/a..b", "/a..b"),
        ("/%e2%82%ac", "/%E2%82%AC"),
        ("/a%20b", "/a%20b"),
        ("/a%2bb+c", "/a%2Bb+c"),
        ("/{x}|\"^[1]", "/%7Bx%7D%7C%22%5E%5B1%5D"),
        ("/a:b@c!$&'()*+,=", "/a:b@c!$&'()*+,="),
        ("/100%25", "/100%25"),
        ("/%3f%23", "/%3F%23"),
    ] {
        let request = Head::to(came).accepted();
        assert_eq!(request.path(), canonical, "{came}");
        assert!(!request.is_odd(), "{came}");
        let target = format!("{came}?a=%zz&b=/../c;d");
        let request = Head::to(&target).accepted();
        assert_eq!((request.path(), request.query()), (canonical, Some("a=%zz&b=/../c;d")), "{came}");
        assert_eq!(request.url(), format!("https://app.test{canonical}?a=%zz&b=/../c;d"));
    }
}

#[test]
fn escaped_slashes_and_broken_escapes_are_refused() {
    for path in ["/a%2fb", "/a%2Fb", "/%2f", "/public/..%2fadmin", "/something%2F..%2Fadmin", "/%2e%2e%2fadmin"] {
        assert_eq!(Head::to(path).refusal(), Some(BadRequest::EscapedSlash), "{path}");
    }
    for path in ["/%", "/%2", "/%zz", "/%2g", "/%%32e", "/a%", "/%u002e", "/% 2", "/%-1", "/%+1"] {
        let Some(head) = Head::to(path).parts() else { continue };
        assert_eq!(super::Canonical::of(head, super::PEER).err(), Some(BadRequest::PercentEncoding), "{path}");
    }
}

#[test]
fn a_path_that_a_lenient_back_end_reads_in_another_way_is_odd() {
    for path in [
        "/a\\b",
        "/public\\..\\admin",
        "/a%5cb",
        "/..%5c..%5cadmin",
        "/%5C",
        "/..;/admin",
        "/public/..;/admin",
        "/..;x=y/admin",
        "/.;/admin",
        "/;/admin",
        "/;x/admin",
        "/a/;",
        "/..%3b/admin",
        "/a;x/../admin",
        "/a;x/./b",
        "/a;x/%2e%2e/b",
        "/%252e%252e/admin",
        "/public/%252e%252e%252fadmin",
        "/a%252fb",
        "/a%255cb",
        "/a%2525",
        "/%25%32%65",
        "/a%253bx",
        "/a%2500",
        "/a%25u002e",
        "/%c0%ae%c0%ae/admin",
        "/%c0%af",
        "/%e0%80%af",
        "/%ff",
        "/%c3",
        "/a%e9",
        "/%ed%a0%80",
        "/%00",
        "/admin%00.png",
        "/a%0d%0ab",
        "/a%09",
        "/%1f",
        "/%7f",
        "/caf\u{e9}",
        "/\u{ff0e}\u{ff0e}/admin",
        "/%ef%bc%8e%ef%bc%8e/admin",
        "/a%ef%bc%8fb",
        "/%e2%80%a4%e2%80%a4/admin",
    ] {
        assert!(Head::to(path).accepted().is_odd(), "{path}");
    }
    for path in ["/a%5cB/c", "/caf\u{e9}/\u{65e5}", "/x;y/..;z"] {
        // apart from the case of escapes it passes as it came
        assert_eq!(Head::to(path).accepted().path(), path.replace("%5c", "%5C"));
    }
}

#[test]
fn what_is_common_and_read_in_two_ways_has_another_reading() {
    for (path, reading) in [
        ("/admin;x", Some("/admin")),
        ("/a;x/b;y", Some("/a/b")),
        ("/admin%3Bx", Some("/admin")),
        ("/admin%3f/x", Some("/admin")),
        ("/admin%23x", Some("/admin")),
        ("/adm%2569n", Some("/admin")),
        ("/a%2520b", Some("/a%20b")),
        ("/100%25/adm%2569n", Some("/100%25/admin")),
        ("/100%25", None),
        ("/a%20b", None),
        ("/admin", None),
    ] {
        let request = Head::to(path).accepted();
        assert_eq!(request.other_readings().first().map(String::as_str), reading, "{path}");
        assert!(!request.is_odd(), "{path}");
    }
}

/// Paths made of what makes paths difficult.
pub(crate) fn difficult_path() -> impl Strategy<Value = String> {
    let part = prop::sample::select(vec![
        "/", "/", "/", "a", "b", "admin", "public", ".", "..", "%2e", "%2E", "%41", "%61", "%7e", "%25", "2e", "2f",
        "41", ";", ";x", "%3b", "%3B", "\\", "%5c", "%23", "%3f", "%20", "%c3%a9", "%e9", "%c0%ae", "\u{e9}",
        "\u{ff0e}", "{", "[", "+", "%00", "%7f", "%", "%2f", "@", "~",
    ]);
    prop::collection::vec(part, 0..12).prop_map(|parts| format!("/{}", parts.concat()))
}

/// The most lenient reader we can think of: it decodes as often as it can twice, takes backslashes for slashes, cuts at
/// `?` and `#`, drops parameters, and removes dot segments last.
fn lenient(path: &str) -> Vec<u8> {
    let mut bytes = decode(&decode(path.as_bytes()));
    for byte in &mut bytes {
        if *byte == b'\\' {
            *byte = b'/';
        }
    }
    if let Some(end) = bytes.iter().position(|byte| matches!(byte, b'?' | b'#')) {
        bytes.truncate(end);
    }
    let mut kept: Vec<&[u8]> = Vec::new();
    let mut last: &[u8] = b"";
    for segment in bytes.split(|byte| *byte == b'/') {
        last = segment.split(|byte| *byte == b';').next().unwrap();
        match last {
            b"" | b"." => {}
            b".." => drop(kept.pop()),
            name => kept.push(name),
        }
    }
    let mut path: Vec<u8> = kept.iter().flat_map(|name| [b"/", *name].concat()).collect();
    if matches!(last, b"" | b"." | b"..") {
        path.push(b'/');
    }
    path
}

fn decode(bytes: &[u8]) -> Vec<u8> {
    let digit = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16));
    let mut decoded = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        match (bytes[at], digit(bytes.get(at + 1)), digit(bytes.get(at + 2))) {
            (b'%', Some(high), Some(low)) => {
                decoded.push(u8::try_from(high * 16 + low).unwrap());
                at += 3;
            }
            (byte, _, _) => {
                decoded.push(byte);
                at += 1;
            }
        }
    }
    decoded
}

/// Every way of reading a path.
fn some_reading() -> impl Strategy<Value = Reading> {
    use EscapedSlashes::{Forward, Keep, Redirect, Reject};
    let slashes = prop::sample::select(vec![Reject, Keep, Redirect, Forward]);
    (any::<bool>(), any::<bool>(), slashes).prop_map(|(normalize_path, merge_slashes, escaped_slashes)| Reading {
        normalize_path,
        merge_slashes,
        escaped_slashes,
        ..Reading::default()
    })
}

fn read_as(path: &str, reading: Reading) -> Result<super::Canonical, BadRequest> {
    super::Canonical::read(Head::to(path).parts().expect("a head that the HTTP library takes"), super::PEER, reading)
}

#[test]
fn slashes_dots_and_escapes_become_what_is_wanted() {
    use EscapedSlashes::{Forward, Keep, Redirect, Reject};
    let (usual, keep) = (Reading::default(), |escaped_slashes| Reading { escaped_slashes, ..Reading::default() });
    let raw = Reading { normalize_path: false, merge_slashes: false, ..usual };
    for (reading, path, read, others) in [
        (usual, "/a//b/../c", Some("/a/c"), &[][..]),
        (Reading { merge_slashes: false, ..usual }, "/a//b/../c", Some("/a//c"), &["/a/c"]),
        (Reading { merge_slashes: false, ..usual }, "/a//../c", Some("/a/c"), &[]),
        (Reading { merge_slashes: false, ..usual }, "//a/.", Some("//a/"), &["/a/"]),
        (Reading { normalize_path: false, ..usual }, "/a//b/../%63", Some("/a/b/../%63"), &["/a/c"]),
        (raw, "/a//b/./%7e", Some("/a//b/./%7e"), &["/a/b/~"]),
        (raw, "/a", Some("/a"), &[]),
        (keep(Reject), "/a%2fb", None, &[]),
        (Reading { escaped_slashes: Reject, ..raw }, "/a%2Fb", None, &[]),
        (keep(Keep), "/a%2fb", Some("/a%2Fb"), &["/a/b"]),
        (Reading { escaped_slashes: Keep, ..raw }, "/a%2fb", Some("/a%2fb"), &["/a/b"]),
        (keep(Keep), "/a/..%2fb", Some("/a/..%2Fb"), &["/b"]),
        (keep(Forward), "/a%2fb", Some("/a/b"), &[]),
        (keep(Redirect), "/a%2F..%2Fb", Some("/b"), &[]),
        (keep(Forward), "/a%5cb", Some("/a\\b"), &[]),
    ] {
        let request = read_as(path, reading);
        assert_eq!(request.as_ref().ok().map(super::Canonical::path), read, "{path} {reading:?}");
        if let Ok(request) = request {
            assert_eq!(request.other_readings(), others, "{path} {reading:?}");
            let asks = reading.escaped_slashes == Redirect;
            assert_eq!(request.is_to_ask_anew(), asks, "{path}");
        }
    }
    assert!(!read_as("/a//b", keep(Redirect)).ok().unwrap().is_to_ask_anew(), "nothing was escaped");
}

proptest! {
    #[test]
    fn however_it_is_read_a_path_is_passed_as_it_was_judged_or_the_other_reading_is_known(
        path in difficult_path(), reading in some_reading()
    ) {
        let Ok(request) = read_as(&path, reading) else { return Ok(()) };
        if !request.is_odd() {
            let read = lenient(request.path());
            let known = request.other_readings();
            let mut known = known.iter().map(String::as_str).chain([request.path()]);
            prop_assert!(known.any(|known| decode(known.as_bytes()) == read), "{:?}", String::from_utf8_lossy(&read));
        }
        let again = read_as(request.path(), reading);
        prop_assert_eq!(again.ok().map(|again| again.path().to_owned()), Some(request.path().to_owned()));
    }

    #[test]
    fn canonicalising_twice_changes_nothing(
        path in difficult_path(),
        query in proptest::option::of("[a-z%=&;/.]{0,12}"),
        host in "(?i)(app|b\\.c|xn--a)\\.test\\.?(:[1-9][0-9]{0,3})?",
    ) {
        let target = query.map_or_else(|| path.clone(), |query| format!("{path}?{query}"));
        let headers = vec![("host", host.as_str()), ("connection", "x-gone"), ("x-gone", "1"), ("x-kept", "2")];
        let head = Head { target: &target, headers, ..Head::default() };
        let Ok(once) = head.canonical() else { return Ok(()) };
        let target = once.query().map_or_else(|| once.path().to_owned(), |query| format!("{}?{query}", once.path()));
        let mut again = Head { target: &target, headers: vec![("host", once.authority())], ..Head::default() };
        again.headers.extend(once.headers().iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())));
        let twice = again.accepted();
        prop_assert_eq!(once.path(), twice.path());
        prop_assert_eq!(once.query(), twice.query());
        prop_assert_eq!(once.authority(), twice.authority());
        prop_assert_eq!(once.host(), twice.host());
        prop_assert_eq!(once.headers(), twice.headers());
        prop_assert_eq!(once.url(), twice.url());
    }

    #[test]
    fn a_path_that_is_not_odd_has_at_most_the_one_other_reading(path in difficult_path()) {
        let Ok(request) = Head::to(&path).canonical() else { return Ok(()) };
        if !request.is_odd() {
            let reading = request.other_readings().into_iter().next();
            let reading = reading.as_deref().unwrap_or(request.path());
            let read = String::from_utf8_lossy(&lenient(request.path())).into_owned();
            prop_assert_eq!(read, String::from_utf8_lossy(&decode(reading.as_bytes())).into_owned());
        }
    }

    #[test]
    fn a_canonical_path_is_absolute_and_has_no_dot_segments(path in difficult_path()) {
        let Ok(request) = Head::to(&path).canonical() else { return Ok(()) };
        prop_assert!(request.path().starts_with('/') && !request.path().contains("//"));
        prop_assert!(!request.path().split('/').any(|segment| matches!(segment, "." | "..")));
        prop_assert!(!request.path().contains("%2F") && !request.path().contains("%2f"));
    }
}
