//! `server.properties`: Java's properties format, as far as Kafka's files use it.
//!
//! A line is `name=value`, `name:value` or `name value`; blank lines and lines that begin with `#` or `!` say nothing; a backslash at the end
//! continues a line, elsewhere it takes the next character literally (`\:`), or is one of `\t`, `\n`, `\r`, `\f`, `\uXXXX`. The last of
//! two lines with one name counts.

use std::collections::BTreeMap;

/// The properties of a file's text, or the line that is not one.
pub(super) fn parse(text: &str) -> Result<BTreeMap<String, String>, String> {
    let mut properties = BTreeMap::new();
    let mut lines = text.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        let mut logical = line.trim_start().to_owned();
        if logical.is_empty() || logical.starts_with(['#', '!']) {
            continue;
        }
        while ends_with_continuation(&logical) {
            logical.pop();
            match lines.next() {
                Some((_, next)) => logical.push_str(next.trim_start()),
                None => break,
            }
        }
        let (name, value) = split(&logical);
        let unescape = |text: &str| {
            unescaped(text).ok_or_else(|| format!("line {}: bad escape in {line:?}", number + 1))
        };
        let name = unescape(name)?;
        if name.is_empty() {
            return Err(format!("line {}: {line:?} has no name", number + 1));
        }
        properties.insert(name, unescape(value.trim_end())?);
    }
    Ok(properties)
}

/// An odd number of backslashes at the end: the last one is not itself escaped.
fn ends_with_continuation(line: &str) -> bool {
    line.bytes().rev().take_while(|byte| *byte == b'\\').count() % 2 == 1
}

/// At the first separator that is not escaped.
fn split(line: &str) -> (&str, &str) {
    let mut escaped = false;
    for (at, character) in line.char_indices() {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '=' | ':' | ' ' | '\t' => {
                let (name, rest) = line.split_at(at);
                let rest = rest.trim_start();
                // Blanks may stand before the sign.
                let value = rest.strip_prefix(['=', ':']).unwrap_or(rest);
                return (name, value.trim_start());
            }
            _ => {}
        }
    }
    (line, "")
}

fn unescaped(text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        if character != '\\' {
            out.push(character);
            continue;
        }
        match characters.next()? {
            't' => out.push('\t'),
            'n' => out.push('\n'),
            'r' => out.push('\r'),
            'f' => out.push('\u{c}'),
            'u' => {
                let digits: String = characters.by_ref().take(4).collect();
                out.push(char::from_u32(u32::from_str_radix(&digits, 16).ok()?)?);
            }
            other => out.push(other),
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn kafkas_lines_are_read() {
        let text = "# a comment\n! another\n\nnode.id=1\n  num.partitions = 4 \nlog.dirs: /a,\\\n    /b\nempty=\nnode.id=2\npath C\\:\\\\logs\\u0041";
        let properties = parse(text).unwrap();
        let expected = [
            ("empty", ""),
            ("log.dirs", "/a,/b"),
            ("node.id", "2"),
            ("num.partitions", "4"),
            ("path", "C:\\logsA"),
        ];
        let found: Vec<_> = properties
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_bad_line_is_refused_by_its_number() {
        assert!(parse("a=1\n=2").unwrap_err().contains("line 2"));
        assert!(parse("a=\\u00zz").unwrap_err().contains("line 1"));
    }
}
