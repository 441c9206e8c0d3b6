//! Takes the secrets of a connection string out of any text.

/// What must never be shown.
#[derive(Clone)]
pub(super) struct Secrets(Vec<String>);

impl Secrets {
    /// The secrets of a connection string: user information (whole, user's password as written and decoded) and the values of
    /// options that carry secrets. Works on malformed strings too.
    pub(super) fn of(uri: &str) -> Secrets {
        let mut found = Vec::new();
        let rest = uri.split_once("://").map_or(uri, |(_, r)| r);
        // A password with an unescaped `/` or `@` makes the string malformed, and must not be shown all the same.
        if let Some((info, _)) = rest.rsplit_once('@') {
            found.push(info.to_owned());
            if let Some((_, password)) = info.split_once(':') {
                found.push(password.to_owned());
                found.push(decode(password));
            }
        } else {
            // Cut off before the `@`, perhaps: what stands in the place of a port is none.
            for after in no_ports(rest) {
                found.push(after.to_owned());
                found.push(decode(after));
            }
        }
        for pair in rest.split_once('?').map_or("", |(_, q)| q).split(['&', ';']) {
            let Some((name, value)) = pair.split_once('=') else { continue };
            let name = name.to_ascii_lowercase();
            if name.contains("password") || name == "authmechanismproperties" {
                found.push(value.to_owned());
                found.push(decode(value));
            }
        }
        found.retain(|s| !s.is_empty());
        // Longest first, so that a secret inside another one does not leave the rest behind.
        found.sort_by_key(|s| std::cmp::Reverse(s.len()));
        found.dedup();
        Secrets(found)
    }

    /// The text without them.
    pub(super) fn hide(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |t, s| t.replace(s.as_str(), "***"))
    }
}

/// What follows a host's name in a string without user information where it is no port: as a port, after its last colon, and with
/// everything behind it, for a password may hold what ends a port.
fn no_ports(rest: &str) -> Vec<&str> {
    let hosts = rest.split(['/', '?']).next().unwrap_or(rest).split(',').filter(|h| !h.starts_with('['));
    let after = hosts.filter_map(|host| host.split_once(':')).map(|(_, after)| after);
    let odd = after.filter(|port| port.parse::<u16>().is_err());
    let all = |text: &str| rest.find(text).map_or("", |at| &rest[at..]);
    odd.flat_map(|text| [text, text.rsplit(':').next().unwrap_or(text), all(text)]).collect()
}

fn decode(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(b) = bytes.next() {
        let mut ahead = bytes.clone();
        let hex = (b == b'%')
            .then(|| Some((char::from(ahead.next()?).to_digit(16)?, char::from(ahead.next()?).to_digit(16)?)))
            .flatten();
        if let Some((high, low)) = hex {
            out.push((high * 16 + low) as u8);
            bytes = ahead;
        } else {
            out.push(b);
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_form_of_a_password_survives() {
        let s = Secrets::of("mongodb://me:p%40ss:w/x@h1,h2/db?tlsCertificateKeyFilePassword=k%21ey&w=1");
        for text in ["bad p%40ss:w/x here", "bad p@ss:w/x here", "me:p%40ss:w/x@h1", "key k%21ey or k!ey"] {
            let hidden = s.hide(text);
            for secret in ["p%40ss", "p@ss", "k%21ey", "k!ey"] {
                assert!(!hidden.contains(secret), "{hidden}");
            }
        }
        assert_eq!(Secrets::of("mongodb://h1/?replicaSet=a").hide("h1 a w"), "h1 a w");
    }

    #[test]
    fn a_password_where_the_string_ends_too_soon_was_told_as_a_port() {
        for uri in ["mongodb://me:p%40ss", "mongodb://me:p%40ss/", "mongodb://h1:1,me:p%40ss?w=1"] {
            let hidden = Secrets::of(uri).hide("invalid port \"p%40ss\" or p@ss");
            assert_eq!(hidden, "invalid port \"***\" or ***", "{uri}");
        }
        for uri in ["mongodb://me:pa,ss", "mongodb://me:pa/ss"] {
            let password = &uri["mongodb://me:".len()..];
            assert_eq!(Secrets::of(uri).hide(&format!("invalid \"{password}\"")), "invalid \"***\"", "{uri}");
        }
        assert_eq!(Secrets::of("mongodb://h1:27017,[::1]:1,[::1]/").hide("h1:27017 ::1"), "h1:27017 ::1");
    }
}
