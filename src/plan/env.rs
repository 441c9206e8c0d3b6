//! `${VARIABLE}` in connection strings: filled in only when connecting, so that secrets never stand in a plan or a journal.

/// Why a text cannot be filled in. Names variables, never their values.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvError {
    /// A variable is not set.
    #[error("the environment variable `{0}` is not set; set it, or change the plan's `[cluster]`")]
    Missing(String),
    /// A `${` that is not followed by a name and `}`.
    #[error("`${{` at character {0} is not followed by a variable's name and `}}`")]
    Syntax(usize),
}

/// Fills in every `${NAME}` with what `lookup` knows. What it puts in is not read again.
///
/// # Errors
/// When a variable is not set or a `${` is not closed.
pub fn resolve_env(text: &str, lookup: impl Fn(&str) -> Option<String>) -> Result<String, EnvError> {
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while let Some(n) = text[at..].find("${") {
        let start = at + n;
        out.push_str(&text[at..start]);
        let name = text[start + 2..].split('}').next().unwrap_or("");
        let closed = text[start + 2 + name.len()..].starts_with('}');
        if !closed || !is_name(name) {
            return Err(EnvError::Syntax(text[..start].chars().count() + 1));
        }
        out.push_str(&lookup(name).ok_or_else(|| EnvError::Missing(name.into()))?);
        at = start + name.len() + 3;
    }
    out.push_str(&text[at..]);
    Ok(out)
}

fn is_name(name: &str) -> bool {
    !name.starts_with(|c: char| c.is_ascii_digit())
        && !name.is_empty()
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn variables_are_filled_in_once_and_errors_name_them() {
        let lookup = |n: &str| (n == "A").then(|| "x${B}".to_owned());
        assert_eq!(resolve_env("m://${A}/${A}?", lookup).unwrap(), "m://x${B}/x${B}?");
        assert_eq!(resolve_env("plain $A", lookup).unwrap(), "plain $A");
        assert_eq!(resolve_env("é${B}", lookup).unwrap_err(), EnvError::Missing("B".into()));
        for bad in ["${", "${A", "${}", "${1A}", "${A B}", "é${é}"] {
            assert!(matches!(resolve_env(bad, lookup), Err(EnvError::Syntax(_))), "{bad}");
        }
        assert_eq!(
            resolve_env("é${é}", lookup).unwrap_err().to_string(),
            "`${` at character 2 is not followed by a variable's name and `}`"
        );
    }
}
