//! Holds docs/FIRST-DOMAIN.md to this crate: a newcomer who types in what stands there gets what is tested here. (The newcomer's crate is called `census`,
//! so that one can stand beside the other.)

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..").canonicalize().expect("the workspace")
}

/// A fenced block: the words after its opening fence, and its lines.
struct Block {
    language: String,
    path: Option<String>,
    text: String,
}

fn blocks() -> Vec<Block> {
    let guide = fs::read_to_string(root().join("docs/FIRST-DOMAIN.md")).expect("the guide is there");
    let mut blocks = Vec::new();
    let mut lines = guide.lines();
    while let Some(line) = lines.next() {
        let Some(info) = line.strip_prefix("```") else { continue };
        let mut words = info.split_whitespace().map(String::from);
        let language = words.next().expect("a block says what it is in");
        let text: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        blocks.push(Block { language, path: words.next(), text: text.join("\n") });
    }
    blocks
}

/// The guide shows this crate, all of it, in order, and nothing else.
#[test]
fn the_code_in_the_guide_is_this_crates() {
    for file in ["Cargo.toml", "src/lib.rs", "src/config.rs", "src/queue.rs", "tests/counting.rs"] {
        let shown: Vec<String> = blocks()
            .into_iter()
            .filter(|block| block.path.as_deref() == Some(&format!("services/census/{file}")))
            .map(|block| block.text)
            .collect();
        let real = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap();
        let real = real.replace("census-guide", "census").replace("census_guide", "census");
        assert_eq!(shown.join("\n\n").trim(), real.trim(), "{file}");
    }
    let elsewhere =
        blocks().into_iter().filter_map(|block| block.path).find(|path| !path.starts_with("services/census/"));
    assert_eq!(elsewhere.as_deref(), Some("configs/census.toml"));
}

/// Runs a command of the guide in a folder where its manifest lies beside those of the repository.
fn run(arguments: &str, manifest: &str) -> Output {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("guide");
    let configs = folder.join("configs");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&configs).unwrap();
    let beside = fs::read_dir(root().join("configs")).unwrap().map(|entry| entry.unwrap().path());
    for path in beside.filter(|path| path.is_file()) {
        fs::copy(&path, configs.join(path.file_name().unwrap())).unwrap();
    }
    fs::write(configs.join("census.toml"), manifest).unwrap();
    let command = arguments.strip_prefix("./redleaf ").expect("one of ours");
    Command::new(env!("CARGO"))
        .args(["run", "--quiet", "--package", "image-builder", "--manifest-path"])
        .arg(root().join("Cargo.toml"))
        .arg("--")
        .args(command.split_whitespace())
        .current_dir(&folder)
        .env("REDLEAF_ROOT", root())
        .output()
        .expect("cargo runs")
}

fn manifest() -> String {
    blocks()
        .into_iter()
        .find(|block| block.path.as_deref() == Some("configs/census.toml"))
        .expect("it has a manifest")
        .text
        .replace("image = \"census\"", "image = \"census-guide\"")
}

/// Every command of the guide does what it says; and what the guide says of wrong manifests is so.
#[test]
fn the_commands_in_the_guide_work() {
    let commands: Vec<String> = blocks()
        .into_iter()
        .filter(|block| block.language == "sh")
        .flat_map(|block| block.text.lines().map(String::from).collect::<Vec<_>>())
        .collect();
    // The first is this crate's own tests, which run beside this one.
    assert_eq!(commands, ["cargo test -p census", "./redleaf check configs/census.toml"]);
    let output = run(&commands[1], &manifest());
    let words = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{words}");

    for (right, wrong, said) in [
        ("{ name = \"arp\", ether-type", "{ name = \"arp\", ether-typ", "ether-typ"),
        ("ether-type = 0x0806", "ether-type = 0x0800", "EtherType 0x0800 is counted already"),
        ("ixgbe0.net", "ixgbe0.nett", "nett"),
    ] {
        let output = run(&commands[1], &manifest().replace(right, wrong));
        let words = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{wrong}: {words}");
        assert!(words.contains(said), "{wrong}: {words}");
    }
}
