//! Files that a configuration names: certificates and keys that must be there, secrets that are read from them.

use std::fs::File;
use std::io::{Error, ErrorKind, Read};
use std::path::{Path, PathBuf};

use base64::Engine;
use zeroize::Zeroizing;

use crate::Secret;
use crate::keys::BASE64;
use crate::limits::SECRET_FILE_BYTES;
use crate::node::{Fields, Node};

/// Length of `shared_secret` and `cookie_secret`.
const SECRET_BYTES: usize = 32;

/// A text that was given in place or through the `…_file` key beside it.
pub struct Given<'a> {
    /// The key that gave it.
    pub node: Node<'a>,
    /// The text, without white space around it.
    pub text: Zeroizing<String>,
    /// Whether it stands at the key itself, not in a file of its own.
    pub in_place: bool,
}

/// The value of `name`, or of the file that `name_file` names. Giving both is a problem, except that a variable beats
/// the file's other spelling.
pub fn given<'a>(fields: &Fields<'a>, name: &str) -> Option<Given<'a>> {
    let file_key = format!("{name}_file");
    let (inline, file) = match (fields.get(name), fields.get(&file_key)) {
        (Some(inline), Some(file)) if inline.is_from_variable() == file.is_from_variable() => {
            let wrong = format!("is given beside {name}");
            return file.refuse(&wrong, "keep one of the two");
        }
        (Some(inline), Some(_)) if inline.is_from_variable() => (Some(inline), None),
        (Some(_), Some(file)) => (None, Some(file)),
        one => one,
    };
    if let Some(node) = inline {
        let text = Zeroizing::new(node.text()?.trim().to_owned());
        return Some(Given { node, text, in_place: true });
    }
    let node = file?;
    let text = secret_file(&node)?;
    Some(Given { node, text, in_place: false })
}

/// 32 bytes in base64.
pub fn secret(fields: &Fields<'_>, name: &str) -> Option<Secret> {
    let Given { node, text, .. } = given(fields, name)?;
    let right = "32 random bytes in base64, as `head -c32 /dev/urandom | base64` makes them";
    match BASE64.decode(text.as_bytes()).map(Zeroizing::new) {
        Ok(bytes) if bytes.len() == SECRET_BYTES => Some(Secret::new(bytes.to_vec())),
        Ok(bytes) => node.refuse(&format!("is {} bytes long", bytes.len()), right),
        Err(_) => node.refuse("is not base64", right),
    }
}

/// PEM, or PEM in base64, of one or more private keys; whether they are P-256 keys is seen when they are used.
pub fn signing_key(fields: &Fields<'_>) -> Option<Secret> {
    let Given { node, text, .. } = given(fields, "signing_key")?;
    let right =
        "PEM (or PEM in base64) of a P-256 private key, as `openssl ecparam -genkey -name prime256v1 -noout` makes it";
    let pem = unpacked(&node, text, right)?;
    if holds(&pem, "RSA PRIVATE KEY") {
        return node.refuse("holds an RSA key", right);
    }
    if !holds(&pem, "EC PRIVATE KEY") && !holds(&pem, "PRIVATE KEY") {
        return node.refuse("holds no private key", right);
    }
    Some(Secret::new(pem.as_bytes().to_vec()))
}

/// PEM, or PEM in base64, that holds one of these kinds.
pub fn pem(node: &Node<'_>, kinds: &[&str], right: &str) -> Option<Secret> {
    let pem = unpacked(node, Zeroizing::new(node.text()?), right)?;
    match kinds {
        _ if kinds.iter().any(|kind| holds(&pem, kind)) => Some(Secret::new(pem.as_bytes().to_vec())),
        ["CERTIFICATE"] => node.refuse("holds no certificate", right),
        ["X509 CRL"] => node.refuse("holds no revocation list", right),
        _ => node.refuse("holds no private key", right),
    }
}

/// The PEM in a text that may be base64 of it.
pub fn unpacked(node: &Node<'_>, text: Zeroizing<String>, right: &str) -> Option<Zeroizing<String>> {
    if text.contains("-----BEGIN") {
        return Some(text);
    }
    let packed: Zeroizing<String> = Zeroizing::new(text.split_whitespace().collect());
    let pem = BASE64.decode(packed.as_bytes()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    match pem.map(Zeroizing::new) {
        Some(pem) => Some(pem),
        None => node.refuse("is neither PEM nor base64 of PEM", right),
    }
}

fn holds(pem: &str, kind: &str) -> bool {
    pem.contains(&format!("-----BEGIN {kind}-----")) && pem.contains(&format!("-----END {kind}-----"))
}

/// The PEM of one kind in a file, and where it lies. Empty, it is a problem: nothing would be trusted, or everything.
pub fn pem_file(node: &Node<'_>, kind: &str, most: u64, right: &str) -> Option<(String, PathBuf)> {
    let path = PathBuf::from(node.text()?);
    let mut text = String::new();
    let read = File::open(&path).and_then(|file| file.take(most + 1).read_to_string(&mut text));
    match read {
        Ok(_) if u64::try_from(text.len()).is_ok_and(|length| length > most) => {
            node.refuse("names a file that is too large", &format!("{most} bytes at most"))
        }
        Ok(0) => node.refuse("names an empty file", right),
        Ok(_) if !holds(&text, kind) => node.refuse("names a file that holds none", right),
        Ok(_) => Some((text, path)),
        Err(error) => refuse_file(node, &error),
    }
}

/// A file that must be there and readable when it is used.
pub fn readable(node: &Node<'_>) -> Option<PathBuf> {
    let path = PathBuf::from(node.text()?);
    match File::open(&path).and_then(|mut file| file.read(&mut [0])) {
        Ok(0) => node.refuse("names an empty file", "name a file with content"),
        Ok(_) => Some(path),
        Err(error) => refuse_file(node, &error),
    }
}

/// The text of a file that holds a secret, without white space around it.
pub fn secret_file(node: &Node<'_>) -> Option<Zeroizing<String>> {
    match limited(Path::new(&node.text()?)) {
        Ok(text) if text.len() > usize::try_from(SECRET_FILE_BYTES).unwrap_or(usize::MAX) => {
            node.refuse("names a file that is too large", &format!("{SECRET_FILE_BYTES} bytes at most"))
        }
        Ok(text) => match text.trim() {
            "" => node.refuse("names an empty file", "name a file with content"),
            text => Some(Zeroizing::new(text.to_owned())),
        },
        Err(error) => refuse_file(node, &error),
    }
}

/// The text of a file, cut one byte past the limit.
fn limited(path: &Path) -> Result<Zeroizing<String>, Error> {
    let mut text = Zeroizing::new(String::new());
    File::open(path)?.take(SECRET_FILE_BYTES + 1).read_to_string(&mut text)?;
    Ok(text)
}

/// Reports why a file cannot be read.
pub fn refuse_file<T>(node: &Node<'_>, error: &Error) -> Option<T> {
    match error.kind() {
        ErrorKind::NotFound => node.refuse("names a file that does not exist", "the path of a readable file"),
        ErrorKind::PermissionDenied => node.refuse("names a file that this user may not read", "make it readable"),
        ErrorKind::InvalidData => node.refuse("names a file that is not text", "a file of text"),
        _ => node.refuse("names a file that cannot be read", "the path of a readable file"),
    }
}
