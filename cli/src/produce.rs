//! `brooklet produce`: lines of standard input become records.

use std::error::Error;
use std::io::BufRead;
use std::time::{SystemTime, UNIX_EPOCH};

use brooklet::Record;
use brooklet::prelude::Produced;
use brooklet::topics::TopicWriter;
use bytes::Bytes;
use clap::Args;

use crate::connection::Connection;

/// Write records to a topic, a line of standard input each.
///
/// `echo 'ada=hello' | brooklet produce greetings --key-separator =`
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Arguments {
    /// The topic, which must exist.
    topic: String,
    /// What parts key and value in a line; without it, or in a line without it, the key is null.
    #[arg(long, short)]
    key_separator: Option<String>,
    /// This text as a value stands for null: a tombstone in a compacted topic.
    #[arg(long, value_name = "TEXT")]
    null: Option<String>,
    #[command(flatten)]
    connection: Connection,
}

pub(crate) fn run(arguments: Arguments) -> Result<(), Box<dyn Error>> {
    let cluster = arguments.connection.cluster();
    let mut writer = TopicWriter::<Option<Bytes>, Option<Bytes>>::new(
        &cluster,
        &arguments.topic,
        Produced::default(),
    )?;
    let mut written = 0u64;
    for line in std::io::stdin().lock().split(b'\n') {
        let line = line?;
        let (key, value) = arguments
            .key_separator
            .as_deref()
            .and_then(|separator| split(&line, separator.as_bytes()))
            .unwrap_or((None, &line));
        let value = (arguments.null.as_deref().map(str::as_bytes) != Some(value))
            .then(|| Bytes::copy_from_slice(value));
        let now_ms = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?;
        writer.send(&Record::new(key.map(Bytes::copy_from_slice), value, now_ms))?;
        written += 1;
    }
    writer.flush()?;
    eprintln!("{written} records written to {}", arguments.topic);
    Ok(())
}

/// Key and value around the first separator.
fn split<'a>(line: &'a [u8], separator: &[u8]) -> Option<(Option<&'a [u8]>, &'a [u8])> {
    let at = line
        .windows(separator.len().max(1))
        .position(|window| window == separator)?;
    let (key, rest) = line.split_at_checked(at)?;
    Some((Some(key), rest.get(separator.len()..)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_separator_parts_key_and_value() {
        assert_eq!(split(b"a=b=c", b"="), Some((Some(&b"a"[..]), &b"b=c"[..])));
        assert_eq!(split(b"a::", b"::"), Some((Some(&b"a"[..]), &b""[..])));
        assert_eq!(split(b"abc", b"="), None);
        assert_eq!(split(b"", b"="), None);
    }
}
