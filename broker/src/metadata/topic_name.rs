//! Kafka's rules for topic names.

/// Longest name: a partition's directory adds a number and, when deleted, a suffix, and must fit into 255 bytes.
const LENGTH_MAX: usize = 249;

/// Why a name is not legal, if it is not.
pub fn check(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("topic name is illegal, it can't be empty".into());
    }
    if name == "." || name == ".." {
        return Err("topic name cannot be \".\" or \"..\"".into());
    }
    if name.len() > LENGTH_MAX {
        return Err(format!(
            "topic name of {} characters is longer than {LENGTH_MAX}",
            name.len()
        ));
    }
    let legal =
        |character: char| character.is_ascii_alphanumeric() || matches!(character, '.' | '_' | '-');
    if !name.chars().all(legal) {
        return Err(format!(
            "topic name {name:?} contains a character other than ASCII letters, digits, '.', '_' and '-'"
        ));
    }
    Ok(())
}

/// Whether two names are the same once '.' and '_' are not told apart.
pub(super) fn collide(left: &str, right: &str) -> bool {
    let fold = |byte: u8| if byte == b'.' { b'_' } else { byte };
    left.len() == right.len() && left.bytes().map(fold).eq(right.bytes().map(fold))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kafkas_names_are_legal_and_others_are_not() {
        for name in ["a", "A.b_c-9", "...", &"x".repeat(249)] {
            assert_eq!(check(name), Ok(()), "{name}");
        }
        for name in ["", ".", "..", "a b", "ä", "a/b", "a\0", &"x".repeat(250)] {
            assert!(check(name).is_err(), "{name}");
        }
    }

    #[test]
    fn dots_and_underscores_collide() {
        assert!(collide("a.b_c", "a_b.c"));
        assert!(!collide("a.b", "a-b"));
        assert!(!collide("a.b", "a.bc"));
    }
}
