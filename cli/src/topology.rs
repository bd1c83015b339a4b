//! `brooklet topology`: draws the text that `describe()` prints, ours or Kafka Streams'.

use std::collections::{BTreeMap, HashSet};
use std::error::Error;
use std::fmt::Write as _;
use std::io::Read;

use clap::Args;

/// Draw a topology from the text of `describe()`, Brooklet's or Kafka Streams'.
///
/// `cargo run --example flight_delays -- --describe | brooklet topology -`
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Arguments {
    /// A file with the text, or - for standard input.
    file: String,
}

pub(crate) fn run(arguments: Arguments) -> Result<(), Box<dyn Error>> {
    let mut text = String::new();
    if arguments.file == "-" {
        std::io::stdin().read_to_string(&mut text)?;
    } else {
        text = std::fs::read_to_string(&arguments.file)
            .map_err(|error| format!("{}: {error}", arguments.file))?;
    }
    print!("{}", draw(&parse(&text)?));
    Ok(())
}

/// One node of the text.
#[derive(Debug, Default, PartialEq)]
struct Node {
    name: String,
    /// `topics: [a, b]`, `topic: c` or `stores: [d]` as the text has it.
    about: About,
    children: Vec<String>,
}

#[derive(Debug, Default, PartialEq)]
enum About {
    Source(Vec<String>),
    Processor(Vec<String>),
    Sink(String),
    #[default]
    Nothing,
}

#[derive(Debug, PartialEq)]
struct Part {
    title: String,
    nodes: Vec<Node>,
}

/// Reads the text of a description.
fn parse(text: &str) -> Result<Vec<Part>, String> {
    let mut parts: Vec<Part> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        let at = |what: &str| format!("line {}: {what}: {line:?}", number + 1);
        if line.is_empty() || line == "Topologies:" || line.starts_with("<--") {
        } else if line.starts_with("Sub-topology:") {
            parts.push(Part {
                title: line.trim_end_matches(':').to_owned(),
                nodes: Vec::new(),
            });
        } else if let Some(children) = line.strip_prefix("-->") {
            let node = parts
                .last_mut()
                .and_then(|part| part.nodes.last_mut())
                .ok_or_else(|| at("an arrow without a node"))?;
            node.children = list(children).filter(|child| child != "none").collect();
        } else if let Some((kind, rest)) = line.split_once(": ") {
            let (name, about) = rest.split_once(" (").unwrap_or((rest, ""));
            let about = about.trim_end_matches(')');
            let (_, value) = about.split_once(": ").unwrap_or(("", about));
            let values = || list(value.trim_matches(['[', ']'])).collect();
            let about = match kind {
                "Source" => About::Source(values()),
                "Processor" => About::Processor(values()),
                "Sink" => About::Sink(value.to_owned()),
                _ => return Err(at("neither a source, a processor nor a sink")),
            };
            let part = parts
                .last_mut()
                .ok_or_else(|| at("a node outside of a sub-topology"))?;
            part.nodes.push(Node {
                name: name.to_owned(),
                about,
                children: Vec::new(),
            });
        } else {
            return Err(at("not a line of a topology description"));
        }
    }
    if parts.is_empty() {
        Err("the text has no `Sub-topology:`; paste what describe() prints".to_owned())
    } else {
        Ok(parts)
    }
}

fn list(text: &str) -> impl Iterator<Item = String> {
    text.split(',')
        .map(|item| item.trim().to_owned())
        .filter(|item| !item.is_empty())
}

/// A tree from each source; what was drawn before is named, not drawn again.
fn draw(parts: &[Part]) -> String {
    let mut out = String::new();
    for part in parts {
        let _ = writeln!(out, "{}", part.title);
        let nodes: BTreeMap<&str, &Node> = part
            .nodes
            .iter()
            .map(|node| (node.name.as_str(), node))
            .collect();
        let mut drawn = HashSet::new();
        let sources = part
            .nodes
            .iter()
            .filter(|node| matches!(node.about, About::Source(_)));
        for source in sources {
            if let About::Source(topics) = &source.about {
                let _ = writeln!(out, "  {} ──► {}", topics.join(", "), source.name);
            }
            drawn.insert(source.name.as_str());
            draw_children(&mut out, &nodes, source, "  ", &mut drawn);
        }
        out.push('\n');
    }
    out.truncate(out.trim_end().len());
    out.push('\n');
    out
}

fn draw_children<'a>(
    out: &mut String,
    nodes: &BTreeMap<&'a str, &'a Node>,
    parent: &'a Node,
    indent: &str,
    drawn: &mut HashSet<&'a str>,
) {
    for (number, child) in parent.children.iter().enumerate() {
        let last = number + 1 == parent.children.len();
        let _ = write!(out, "{indent}{} {child}", if last { "└─" } else { "├─" });
        let Some(node) = nodes.get(child.as_str()) else {
            out.push('\n');
            continue;
        };
        match &node.about {
            About::Sink(topic) => {
                let _ = write!(out, " ──► {topic}");
            }
            About::Processor(stores) if !stores.is_empty() => {
                let _ = write!(out, "  [{}]", stores.join(", "));
            }
            _ => {}
        }
        if drawn.insert(node.name.as_str()) {
            out.push('\n');
            let indent = format!("{indent}{}", if last { "   " } else { "│  " });
            draw_children(out, nodes, node, &indent, drawn);
        } else {
            out.push_str("  (as above)\n");
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const WORD_COUNT: &str = "Topologies:
   Sub-topology: 0
    Source: KSTREAM-SOURCE-0000000000 (topics: [lines])
      --> KSTREAM-FLATMAPVALUES-0000000001
    Processor: KSTREAM-FLATMAPVALUES-0000000001 (stores: [])
      --> KSTREAM-SINK-0000000002, KSTREAM-FOREACH-0000000003
      <-- KSTREAM-SOURCE-0000000000
    Processor: KSTREAM-FOREACH-0000000003 (stores: [seen])
      --> none
      <-- KSTREAM-FLATMAPVALUES-0000000001
    Sink: KSTREAM-SINK-0000000002 (topic: words)
      <-- KSTREAM-FLATMAPVALUES-0000000001
";

    #[test]
    fn a_description_is_drawn_as_a_tree() {
        let drawn = draw(&parse(WORD_COUNT).unwrap());
        let expected = "Sub-topology: 0
  lines ──► KSTREAM-SOURCE-0000000000
  └─ KSTREAM-FLATMAPVALUES-0000000001
     ├─ KSTREAM-SINK-0000000002 ──► words
     └─ KSTREAM-FOREACH-0000000003  [seen]
";
        assert_eq!(drawn, expected);
    }

    #[test]
    fn a_text_that_is_none_is_refused_with_its_line() {
        assert_eq!(
            parse("Topologies:\nhello").unwrap_err(),
            "line 2: not a line of a topology description: \"hello\""
        );
        assert!(
            parse("")
                .unwrap_err()
                .contains("paste what describe() prints")
        );
    }
}
