//! Holds the house to its drawing: the edges between our packages are those that ARCHITECTURE.md draws.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Crates with `unsafe`; every other one forbids it.
const UNSAFE_ISLANDS: [&str; 2] = ["lockgate-ring", "lockgate-facts"];
/// Crates that have a runtime: the control plane, the binary that starts it, and the load generator.
const WITH_RUNTIME: [&str; 3] = ["lockgate-control", "lockgate", "lockgate-bench"];
const RUNTIMES: [&str; 6] = ["tokio", "mio", "async-std", "smol", "monoio", "tokio-uring"];
/// Time, randomness and sockets are arguments of these.
const SANS_IO: [&str; 6] = [
    "lockgate-codecs",
    "lockgate-policy-dsl",
    "lockgate-lane",
    "lockgate-facts",
    "lockgate-mask",
    "lockgate-recording",
];
const IO_WORDS: [&str; 8] = [
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "UnixStream",
    "UnixListener",
    "thread::spawn",
    "Instant::now",
    "SystemTime::now",
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// What cargo knows about the workspace.
struct House {
    /// Package name → what it depends on directly, by name, development left out.
    uses: BTreeMap<String, BTreeSet<String>>,
    /// Ours → what of ours its tests use besides.
    tests_use: BTreeMap<String, BTreeSet<String>>,
    /// Ours → folder.
    ours: BTreeMap<String, PathBuf>,
}

impl House {
    fn read() -> House {
        let out = Command::new(env!("CARGO"))
            .args(["metadata", "--format-version=1", "--locked", "--offline"])
            .current_dir(root())
            .output()
            .unwrap();
        assert!(out.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&out.stderr));
        House::of(&serde_json::from_slice(&out.stdout).unwrap())
    }

    fn of(metadata: &Value) -> House {
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let names: BTreeMap<String, String> =
            list(&metadata["packages"]).iter().map(|p| (text(&p["id"]), text(&p["name"]))).collect();
        let members: BTreeSet<String> = list(&metadata["workspace_members"]).iter().map(text).collect();
        let mut house = House { uses: BTreeMap::new(), tests_use: BTreeMap::new(), ours: BTreeMap::new() };
        for package in list(&metadata["packages"]) {
            if members.contains(&text(&package["id"])) {
                let manifest = PathBuf::from(text(&package["manifest_path"]));
                house.ours.insert(text(&package["name"]), manifest.parent().unwrap().to_owned());
            }
        }
        for node in list(&metadata["resolve"]["nodes"]) {
            let from = names[&text(&node["id"])].clone();
            for dep in list(&node["deps"]) {
                let to = names[&text(&dep["pkg"])].clone();
                let only_for_tests = list(&dep["dep_kinds"]).iter().all(|kind| kind["kind"] == "dev");
                let edges = if only_for_tests { &mut house.tests_use } else { &mut house.uses };
                edges.entry(from.clone()).or_default().insert(to);
            }
        }
        house
    }

    /// Everything that ends up in a package's build.
    fn all_below(&self, package: &str) -> BTreeSet<String> {
        let mut seen = BTreeSet::new();
        let mut next = vec![package.to_owned()];
        while let Some(name) = next.pop() {
            for below in self.uses.get(&name).into_iter().flatten() {
                if seen.insert(below.clone()) {
                    next.push(below.clone());
                }
            }
        }
        seen
    }

    fn ours_only(&self, edges: Option<&BTreeSet<String>>) -> BTreeSet<String> {
        edges.into_iter().flatten().filter(|name| self.ours.contains_key(*name)).cloned().collect()
    }
}

/// The table of ARCHITECTURE.md: package → (floor, what it uses of ours).
fn drawing(page: &str) -> BTreeMap<String, (u32, BTreeSet<String>)> {
    let table = page.split_once("<!-- edges -->").expect("the mark before the table").1;
    let rows =
        table.lines().skip_while(|line| line.is_empty()).take_while(|line| line.starts_with('|')).skip(2);
    rows.map(|row| {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let names = cells[2].split(['`', ',', ' ']).filter(|word| !word.is_empty() && *word != "–");
        let uses = names.map(|name| format!("lockgate-{name}")).collect();
        let name = cells[1].trim_matches('`');
        let package = if name == "lockgate" { name.to_owned() } else { format!("lockgate-{name}") };
        (package, (cells[0].parse().expect("a floor's number"), uses))
    })
    .collect()
}

/// What does not agree, one sentence each.
fn disagreements(house: &House, drawn: &BTreeMap<String, (u32, BTreeSet<String>)>) -> Vec<String> {
    let mut found = Vec::new();
    let floor = |name: &str| drawn.get(name).map_or(0, |(floor, _)| *floor);
    for package in house.ours.keys() {
        let Some((_, expected)) = drawn.get(package) else {
            found.push(format!("{package} is not drawn"));
            continue;
        };
        let uses = house.ours_only(house.uses.get(package));
        found.extend(uses.difference(expected).map(|to| format!("{package} uses {to}, which is not drawn")));
        found.extend(
            expected.difference(&uses).map(|to| format!("{package} → {to} is drawn, and is not there")),
        );
        let in_tests = house.ours_only(house.tests_use.get(package));
        for to in uses.iter().chain(&in_tests).filter(|to| floor(to) >= floor(package)) {
            found.push(format!("{package} uses {to}, which is not on a floor below it"));
        }
    }
    found.extend(
        drawn
            .keys()
            .filter(|name| !house.ours.contains_key(*name))
            .map(|name| format!("{name} is drawn, and is no package")),
    );
    found
}

#[test]
fn edges_are_those_that_are_drawn() {
    let page = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let found = disagreements(&House::read(), &drawing(&page));
    assert!(found.is_empty(), "ARCHITECTURE.md and the manifests differ:\n{}", found.join("\n"));
}

#[test]
fn an_undrawn_edge_is_found() {
    let house = House::read();
    let page = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let mut drawn = drawing(&page);
    drawn.get_mut("lockgate-worker").unwrap().1.remove("lockgate-bridge");
    drawn.get_mut("lockgate-mask").unwrap().1.insert("lockgate-lane".into());
    drawn.get_mut("lockgate-ring").unwrap().0 = 99;
    let found = disagreements(&house, &drawn).join("\n");
    assert!(found.contains("lockgate-worker uses lockgate-bridge, which is not drawn"), "{found}");
    assert!(found.contains("lockgate-mask → lockgate-lane is drawn, and is not there"), "{found}");
    assert!(found.contains("uses lockgate-ring, which is not on a floor below it"), "{found}");
}

#[test]
fn no_runtime_outside_control() {
    let house = House::read();
    for package in house.ours.keys().filter(|name| !WITH_RUNTIME.contains(&name.as_str())) {
        let below = house.all_below(package);
        let runtimes: Vec<&str> = RUNTIMES.into_iter().filter(|name| below.contains(*name)).collect();
        assert!(
            runtimes.is_empty(),
            "{package} brings in {runtimes:?}; of the gateway only control has a runtime"
        );
    }
}

#[test]
fn replay_needs_recordings_alone() {
    let below = House::read().all_below("lockgate-replay");
    let ours: Vec<&String> = below.iter().filter(|name| name.starts_with("lockgate")).collect();
    assert_eq!(ours, ["lockgate-recording"]);
}

#[test]
fn unsafe_stays_on_its_islands() {
    for (package, folder) in House::read().ours {
        let head = ["lib.rs", "main.rs", "src/main.rs"]
            .iter()
            .map(|name| folder.join(name))
            .find(|path| path.exists());
        let text = fs::read_to_string(head.unwrap()).unwrap();
        let forbids = text.contains("#![forbid(unsafe_code)]");
        let is_island = UNSAFE_ISLANDS.contains(&package.as_str());
        assert!(
            forbids != is_island,
            "{package}: forbid(unsafe_code) is {forbids}, an island of unsafe is {is_island}"
        );
    }
}

#[test]
fn sans_io_crates_know_no_clock_and_no_socket() {
    let house = House::read();
    for package in SANS_IO {
        for file in rust_files(&house.ours[package]) {
            let text = fs::read_to_string(&file).unwrap();
            let shipped = text.split("#[cfg(test)]").next().unwrap_or_default();
            let is_test = file.file_stem().is_some_and(|stem| stem == "tests" || stem == "rig");
            let found = IO_WORDS.iter().find(|word| !is_test && shipped.contains(*word));
            assert_eq!(found, None, "{}: in {package} that is an argument", file.display());
        }
    }
}

/// Rust files of a package, without those of packages inside its folder.
fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        let name = entry.file_name().unwrap().to_string_lossy().into_owned();
        if entry.is_dir()
            && !entry.join("Cargo.toml").exists()
            && !matches!(name.as_str(), "target" | "examples" | "tests")
        {
            files.extend(rust_files(&entry));
        } else if entry.extension().is_some_and(|extension| extension == "rs") {
            files.push(entry);
        }
    }
    files
}
