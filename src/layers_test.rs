//! Imports go down only. This reads every source file and checks each path against the table of layers, so that a wall
//! that was crossed is a failing test with file and line.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

/// Every room and its layer. A room may use rooms of lower layers only.
const LAYERS: &[(&str, u8)] = &[
    ("primitives", 0),
    ("identity", 1),
    ("wire", 1),
    ("runtime", 1),
    ("telemetry", 1),
    ("store", 2),
    ("net", 3),
    ("map", 4),
    ("message", 4),
    ("block", 4),
    ("ves", 4),
    ("tunnel", 4),
    ("gateway", 4),
    ("api", 5),
    ("dashboard", 5),
    ("node", 6),
    ("config", 6),
    ("cli", 7),
    ("testnet", 7),
    ("test_util", 7),
    ("main", 8),
    ("lib", 8),
    ("layers_test", 8),
];

/// Edges inside one layer. Rooms of layer 1 may see each other's doors where listed, features only by these.
const SIDEWAYS: &[(&str, &str)] = &[
    ("message", "map"),
    ("ves", "map"),
    ("ves", "message"),
    ("tunnel", "map"),
    ("tunnel", "message"),
    ("identity", "wire"),
    ("runtime", "telemetry"),
    ("dashboard", "api"),
    ("node", "config"),
    ("config", "node"),
    ("cli", "testnet"),
];

/// Down, but not allowed all the same.
const FORBIDDEN: &[(&str, &str, &str)] = &[("gateway", "net", "the gateway has no libp2p inside")];

/// Crates that stay in some rooms, or in some single files.
const CRATES: &[(&str, &[&str])] = &[
    ("libp2p", &["net/", "identity/", "primitives/", "node/behaviour.rs"]),
    ("libp2p_request_response", &["net/"]),
    ("rocksdb", &["store/"]),
];

/// What generated protobuf types are called, and the files that convert them. A folder's tests may make bad ones on purpose.
const PROTO: &str = "wire::proto";
const PROTO_FILES: &[&str] = &["wire.rs", "record.rs", "envelope.rs", "receipt.rs", "encryption.rs", "grant.rs"];

#[derive(Debug, PartialEq, Eq)]
struct Crossing {
    file: String,
    line: usize,
    why: String,
}

#[test]
fn imports_go_down_only() {
    // Asked when it runs: two clones may share a target directory, and with it the program that was built in the other one.
    let root = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("src");
    let mut files = Vec::new();
    collect(&root, &mut files);
    assert!(files.len() > 20, "found only {} files: is this the right folder?", files.len());
    let mut crossings = Vec::new();
    for file in files {
        let name = file.strip_prefix(&root).unwrap().to_str().unwrap().replace('\\', "/");
        check(&name, &fs::read_to_string(&file).unwrap(), &mut crossings);
    }
    let list = crossings.iter().fold(String::new(), |mut list, c| {
        writeln!(list, "  src/{}:{}: {}", c.file, c.line, c.why).unwrap();
        list
    });
    assert!(crossings.is_empty(), "\n{list}");
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|e| e == "rs") && !path.ends_with("layers_test.rs") {
            files.push(path);
        }
    }
}

fn check(file: &str, text: &str, crossings: &mut Vec<Crossing>) {
    let room = file.split('/').next().unwrap().trim_end_matches(".rs");
    let source = strip(text);
    let mut add = |at: usize, why: String| {
        let line = source[..at].matches('\n').count() + 1;
        crossings.push(Crossing { file: file.into(), line, why });
    };
    let Some(layer) = layer_of(room) else {
        add(0, format!("{room} has no layer: give it one in layers_test.rs"));
        return;
    };
    // Tests may reach sideways and up: a cluster test of a feature needs more than the feature.
    let tested = file.contains("/tests/") || file.ends_with("/tests.rs") || room == "lib";
    let end = if tested { 0 } else { source.find("#[cfg(test)]\nmod ").unwrap_or(source.len()) };
    for (at, path) in crate_paths(&source).into_iter().filter(|(at, _)| *at < end) {
        let used = path.split("::").next().unwrap_or(&path);
        match layer_of(used) {
            // An item of the crate root: a macro or a re-export.
            None => {}
            Some(_) if used == room => {}
            Some(below) => {
                if let Some((_, _, why)) = FORBIDDEN.iter().find(|(from, to, _)| *from == room && *to == used) {
                    add(at, format!("{room} uses {used}: {why}"));
                } else if below > layer || below == layer && !SIDEWAYS.contains(&(room, used)) {
                    add(at, format!("{room} (L{layer}) uses {used} (L{below})"));
                }
            }
        }
        if path.starts_with(PROTO) && room != "wire" && !PROTO_FILES.iter().any(|f| file.ends_with(f)) {
            add(at, "generated protobuf types stop at the feature's conversion files".into());
        }
    }
    for (name, homes) in CRATES {
        if homes.iter().any(|home| file.starts_with(home)) || file.starts_with("test_util") {
            continue;
        }
        for at in words(&source, name).filter(|at| source[at + name.len()..].starts_with("::") && *at < end) {
            add(at, format!("{name}:: only in {}", homes.join(", ")));
        }
    }
}

fn layer_of(room: &str) -> Option<u8> {
    LAYERS.iter().find(|(name, _)| *name == room).map(|(_, layer)| *layer)
}

/// Blanks comments, strings and characters, so that places stay what they were.
fn strip(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut i = 0;
    while i < bytes.len() {
        let rest = &bytes[i..];
        let raw = raw_string(rest).filter(|_| i == 0 || !is_word(bytes[i - 1]));
        let len = if rest.starts_with(b"//") {
            rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len())
        } else if rest.starts_with(b"/*") {
            find(&rest[2..], b"*/").map_or(rest.len(), |at| at + 4)
        } else if let Some(len) = raw {
            len
        } else if rest[0] == b'"' {
            quoted(rest)
        } else if rest.starts_with(b"'\\") {
            // Past the escaped character, which may be a quote itself.
            rest.iter().skip(3).position(|b| *b == b'\'').map_or(rest.len(), |at| at + 4)
        } else if rest.len() > 2 && rest[0] == b'\'' && rest[2] == b'\'' {
            3
        } else {
            i += 1;
            continue;
        };
        out[i..i + len].iter_mut().filter(|b| **b != b'\n').for_each(|b| *b = b' ');
        i += len;
    }
    String::from_utf8(out).expect("blanking covers whole comments and strings")
}

/// Length of the raw string that starts here.
fn raw_string(rest: &[u8]) -> Option<usize> {
    let after = rest.strip_prefix(b"br").or_else(|| rest.strip_prefix(b"r"))?;
    let hashes = after.iter().take_while(|b| **b == b'#').count();
    if after.get(hashes) != Some(&b'"') {
        return None;
    }
    let end = [b"\"".as_slice(), &b"#".repeat(hashes)].concat();
    let start = rest.len() - after.len() + hashes + 1;
    Some(find(&rest[start..], &end).map_or(rest.len(), |at| start + at + end.len()))
}

/// Length of the string that starts here, its quotes included.
fn quoted(rest: &[u8]) -> usize {
    let mut i = 1;
    while i < rest.len() {
        match rest[i] {
            b'\\' => i += 2,
            b'"' => return i + 1,
            _ => i += 1,
        }
    }
    rest.len()
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|w| w == what)
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Places where `word` stands alone, not as the end of a path.
fn words<'a>(source: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let bytes = source.as_bytes();
    source.match_indices(word).map(|(at, _)| at).filter(move |&at| {
        let before = at.checked_sub(1).map(|i| bytes[i]);
        !before.is_some_and(|b| is_word(b) || b == b':') && !bytes.get(at + word.len()).is_some_and(|b| is_word(*b))
    })
}

/// Every path below `crate::` with its place, groups in braces opened: `crate::{a::B, c::{D, E}}` gives `a::B`, `c::D`, `c::E`.
fn crate_paths(source: &str) -> Vec<(usize, String)> {
    let mut paths = Vec::new();
    for start in words(source, "crate") {
        let from = start + "crate".len();
        // `pub(crate)` and `$crate` inside a macro are no imports; the latter is, and has the same form.
        if source[from..].starts_with("::") {
            open(source, from + 2, String::new(), &mut paths);
        }
    }
    paths
}

/// Reads one path at `at` after `prefix` and returns where it ends.
fn open(source: &str, at: usize, prefix: String, paths: &mut Vec<(usize, String)>) -> usize {
    let bytes = source.as_bytes();
    let blank = |mut i: usize| {
        while bytes.get(i).is_some_and(u8::is_ascii_whitespace) {
            i += 1;
        }
        i
    };
    let (mut i, mut path) = (blank(at), prefix);
    let begin = i;
    loop {
        if bytes.get(i) == Some(&b'{') {
            i = blank(i + 1);
            while bytes.get(i).is_some_and(|b| *b != b'}') {
                let next = blank(open(source, i, path.clone(), paths));
                // A rename (`as x`), or something that is no path: on to the next comma or brace.
                let mut j = next.max(i);
                while bytes.get(j).is_some_and(|b| !matches!(b, b',' | b'}')) {
                    j += 1;
                }
                i = if bytes.get(j) == Some(&b',') { blank(j + 1) } else { j };
            }
            return (i + 1).min(bytes.len());
        }
        let end = (i..bytes.len()).find(|&j| !is_word(bytes[j])).unwrap_or(bytes.len());
        path.push_str(&source[i..end]);
        i = end;
        if source[i..].starts_with("::") {
            path.push_str("::");
            i = blank(i + 2);
        } else {
            paths.push((begin, path));
            return i;
        }
    }
}

#[test]
fn a_crossed_wall_is_found_with_its_line() {
    let found = |file: &str, text: &str| {
        let mut crossings = Vec::new();
        check(file, text, &mut crossings);
        crossings.into_iter().map(|c| (c.line, c.why)).collect::<Vec<_>>()
    };
    let up = "//! Doc.\nuse crate::{\n    primitives::PeerId,\n    map::{Handle, Entry as E},\n};\n";
    assert_eq!(found("net/swarm.rs", up), [(4, "net (L3) uses map (L4)".into()), (4, "net (L3) uses map (L4)".into())]);
    assert_eq!(found("message/service.rs", up), []);
    assert_eq!(found("map/service.rs", "fn f() { crate::message::go() }").len(), 1);
    assert_eq!(found("map/service.rs", "use libp2p::PeerId;").len(), 1);
    assert_eq!(found("net/swarm.rs", "use libp2p::PeerId;"), []);
    assert_eq!(found("map/service.rs", "fn f(a: x::libp2p::A) {}"), []);
    assert_eq!(found("map/state.rs", "use crate::wire::proto::vos::Record;").len(), 1);
    assert_eq!(found("map/wire.rs", "use crate::wire::proto::vos::Record;"), []);
    assert_eq!(found("kitchen/mod.rs", "").len(), 1);
    assert_eq!(found("gateway/mod.rs", "use crate::net::Handle;").len(), 1);
}

#[test]
fn comments_strings_and_tests_are_not_imports() {
    let mut crossings = Vec::new();
    let text = r##"
// use crate::cli::X;
/* use crate::cli::X; */
const A: &str = "use crate::cli::X \" crate::cli::Y";
const B: &str = r#"crate::cli::Z""#;
const C: (char, char) = ('"', '\'');
fn f<'a>(_: &'a str) {}
#[cfg(test)]
mod tests {
    use crate::cli::X;
}
"##;
    check("net/x.rs", text, &mut crossings);
    assert_eq!(crossings, []);
    check("net/x.rs", "const C: char = '\"';\nuse crate::cli::X;", &mut crossings);
    assert_eq!(crossings.len(), 1);
}
