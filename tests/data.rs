//! The readers on files that they did not write: CPython and numpy did (`tests/fixtures/make_fixtures.py`).

use std::path::{Path, PathBuf};

use coin::data::conversations::{self, Features, Line, LineReader};
use coin::data::synthetic::{SyntheticOptions, generate};
use coin::data::{
    self, Conversation, Corpus, Format, Modality, ReadOptions, Split, Utterance, iemocap, meld, pickle,
};
use coin::error::Error;
use proptest::prelude::*;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn read(name: &str) -> Corpus {
    read_with(name, &ReadOptions::default())
}

fn read_with(name: &str, options: &ReadOptions) -> Corpus {
    data::read(&fixture(name), options).unwrap_or_else(|error| panic!("{error}"))
}

/// The message of the error that reading ends in, which is the user's to mend and begins with the path.
fn fault(name: &str, options: &ReadOptions) -> String {
    match data::read(&fixture(name), options) {
        Err(Error::Input(message)) => {
            let path = fixture(name).display().to_string();
            let message =
                message.strip_prefix(&format!("{path}: ")).unwrap_or_else(|| panic!("no path: {message}"));
            message.to_string()
        }
        other => panic!("{name}: {other:?}"),
    }
}

fn modalities(names: &[&str]) -> ReadOptions {
    ReadOptions {
        modalities: Some(names.iter().map(|name| name.to_string()).collect()),
        ..ReadOptions::default()
    }
}

/// Names in the folder of fixtures that begin with `start` and end with `end`.
fn names(start: &str, end: &str) -> Vec<String> {
    let entries = std::fs::read_dir(fixture("")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> =
        names.filter(|name| name.starts_with(start) && name.ends_with(end)).collect();
    names.sort();
    names
}

// What the fixtures hold, as the script computes it.

const CONVERSATIONS: [(&str, usize); 4] =
    [("Ses01F_impro01", 3), ("Ses01M_script02", 2), ("Ses05F_impro01", 4), ("Ses05M_script03", 1)];
const MODALITIES: [(&str, usize); 3] = [("text", 5), ("audio", 3), ("visual", 4)];
const SENTENCES: [&str; 4] =
    ["It's \"so\\so\"\n\tcaf\u{e9}.", "\u{1F600} and \u{3c9} \\u0041", "Plain.", "I'm fine"];

/// The script's `value`, without its scale.
fn value(conversation: usize, utterance: usize, modality: usize, column: usize) -> f64 {
    ((conversation * 31 + utterance * 7 + modality * 3 + column * 5) % 64) as f64 - 32.0
}

/// The features of the script's conversations, by modalities; the ones in `fine` are of double precision.
fn features(lengths: &[usize], modalities: &[usize], scale: f64, fine: &[usize]) -> Vec<f64> {
    let mut features = Vec::new();
    for (conversation, &length) in lengths.iter().enumerate() {
        for utterance in 0..length {
            for &modality in modalities {
                let beyond = if fine.contains(&modality) { f64::powi(2.0, -40) } else { 0.0 };
                let row = 0..MODALITIES[modality].1;
                features.extend(
                    row.map(|column| value(conversation, utterance, modality, column) * scale + beyond),
                );
            }
        }
    }
    features
}

fn blocks(chosen: &[usize]) -> Vec<Modality> {
    let of = |&index: &usize| Modality { name: MODALITIES[index].0.to_string(), width: MODALITIES[index].1 };
    chosen.iter().map(of).collect()
}

/// The four conversations with features like these.
fn iemocap_corpus(chosen: &[usize], scale: f64, fine: &[usize]) -> Corpus {
    let mut first = 0;
    let conversations = CONVERSATIONS.iter().enumerate().map(|(place, &(id, length))| {
        let utterances = (0..length).map(|index| {
            let speaker = ["F", "M"][(place + index) % 2];
            Utterance {
                id: format!("{id}_{speaker}{index:03}"),
                speaker: speaker.to_string(),
                label: Some((place + index) % 6),
                text: Some(SENTENCES[(place + index) % 4].to_string()),
            }
        });
        let split = if id.starts_with("Ses05") { Split::Test } else { Split::Train };
        let conversation =
            Conversation { id: id.to_string(), split, first, utterances: utterances.collect() };
        first += length;
        conversation
    });
    Corpus {
        source: String::new(),
        classes: iemocap::CLASSES.map(String::from).to_vec(),
        modalities: blocks(chosen),
        conversations: conversations.collect(),
        features: features(&CONVERSATIONS.map(|(_, length)| length), chosen, scale, fine),
    }
}

/// The usual file's precision: audio alone is double.
fn usual() -> Corpus {
    iemocap_corpus(&[0, 1, 2], 0.125, &[1])
}

fn meld_corpus(chosen: &[usize]) -> Corpus {
    // Sorted by id as text: 0, 10, 2. Conversation 10 is the script's third.
    let order = [(0, "0", 3, 2), (2, "10", 1, 3), (1, "2", 2, 9)];
    let script = features(&[3, 2, 1], chosen, 0.125, &[]);
    let width: usize = chosen.iter().map(|&index| MODALITIES[index].1).sum();
    let mut corpus = Corpus {
        source: String::new(),
        classes: meld::CLASSES.map(String::from).to_vec(),
        modalities: blocks(chosen),
        conversations: Vec::new(),
        features: Vec::new(),
    };
    for (place, id, length, speakers) in order {
        let before: usize = [3, 2, 1][..place].iter().sum();
        let utterances = (0..length).map(|index| Utterance {
            id: index.to_string(),
            speaker: ((place + 4 * index) % speakers).to_string(),
            label: Some((place + 3 * index) % 7),
            text: Some(SENTENCES[(place + index) % 4].to_string()),
        });
        let split = if id == "10" { Split::Test } else { Split::Train };
        let first = corpus.len();
        corpus.conversations.push(Conversation {
            id: id.to_string(),
            split,
            first,
            utterances: utterances.collect(),
        });
        corpus.features.extend_from_slice(&script[before * width..(before + length) * width]);
    }
    corpus
}

#[track_caller]
fn assert_same(name: &str, found: Corpus, expected: &Corpus) {
    assert!(found.source.ends_with(name), "{name}: {}", found.source);
    let found = Corpus { source: expected.source.clone(), ..found };
    assert_eq!(&found, expected, "{name}");
}

// Pickles of IEMOCAP.

#[test]
fn every_protocol_of_every_python_and_numpy() {
    let names = names("iemocap-", ".pkl");
    for protocol in 0..=5 {
        for numpy in ["numpy1", "numpy2"] {
            assert!(names.contains(&format!("iemocap-{numpy}-protocol{protocol}.pkl")));
        }
    }
    let plain: Vec<&String> =
        names.iter().filter(|name| !name.contains("fortran") && !name.contains("big-endian")).collect();
    assert_eq!(plain.len(), 17);
    for name in plain {
        assert_same(name, read(name), &usual());
    }
}

#[test]
fn big_endian_and_fortran_order() {
    for order in ["big-endian", "fortran"] {
        for of in ["numpy1-{}-protocol2", "numpy1-{}-protocol5", "numpy2-{}-protocol2", "numpy2-{}-protocol5"]
        {
            let name = format!("iemocap-{}.pkl", of.replace("{}", order));
            assert_same(&name, read(&name), &usual());
        }
        for protocol in [0, 2] {
            let name = format!("iemocap-python2-{order}-protocol{protocol}.pkl");
            assert_same(&name, read(&name), &usual());
        }
    }
}

#[test]
fn half_precision_and_integers() {
    assert_same("half-mixed.pkl", read("half-mixed.pkl"), &iemocap_corpus(&[0, 1, 2], 0.125, &[]));
    assert_same("integers-mixed.pkl", read("integers-mixed.pkl"), &iemocap_corpus(&[0, 1, 2], 1.0, &[]));
}

/// Ordered and default dicts, tuples, sets, numpy scalars and texts, object arrays, lists of numbers, columns of a
/// larger matrix, rows of shape `[1, width]`.
#[test]
fn other_containers_say_the_same() {
    for protocol in 0..=5 {
        let name = format!("other-protocol{protocol}.pkl");
        assert_same(&name, read(&name), &usual());
    }
    assert_same("other-labels.pkl", read("other-labels.pkl"), &usual());
}

#[test]
fn any_subset_of_the_modalities_in_the_files_order() {
    let name = "iemocap-numpy2-protocol2.pkl";
    let subsets: [(&[&str], &[usize]); 6] = [
        (&["text"], &[0]),
        (&["audio"], &[1]),
        (&["visual", "text"], &[0, 2]),
        (&["audio", "text"], &[0, 1]),
        (&["visual", "audio"], &[1, 2]),
        (&["visual", "audio", "text"], &[0, 1, 2]),
    ];
    for (asked, chosen) in subsets {
        assert_same(name, read_with(name, &modalities(asked)), &iemocap_corpus(chosen, 0.125, &[1]));
    }
    assert!(
        fault(name, &modalities(&["face"]))
            .contains("no \"face\" modality in this file: ask for --modalities")
    );
    assert!(fault(name, &modalities(&[])).contains("no modality is asked for"));
}

#[test]
fn a_file_without_video() {
    let name = "without-visual.pkl";
    assert_same(name, read(name), &iemocap_corpus(&[0, 1], 0.125, &[1]));
    assert_eq!(
        fault(name, &modalities(&["text", "visual"])),
        "the visual modality is asked for and videoVisual is empty: ask for --modalities text,audio"
    );
}

#[test]
fn each_fault_is_named_with_its_place() {
    let place = "conversation Ses01F_impro01, utterance 1 (Ses01F_impro01_M001): ";
    let cases = [
        (
            "nan",
            "conversation Ses05F_impro01, utterance 2 (Ses05F_impro01_F002): audio feature 1 is NaN: features must",
        ),
        (
            "infinity",
            "conversation Ses05F_impro01, utterance 2 (Ses05F_impro01_F002): audio feature 1 is -inf: feat",
        ),
        ("label", "{place}videoLabels is 6, out of range: labels are 0 to 5 (happy, sad, neutral"),
        ("negative-label", "{place}videoLabels is -1, out of range"),
        (
            "label-type",
            "conversation Ses01F_impro01: videoLabels is a list that holds a str: a list of whole numbers",
        ),
        (
            "width",
            "conversation Ses05F_impro01, utterance 3 (Ses05F_impro01_M003): videoText is 6 wide where 5 are expected",
        ),
        (
            "not-numbers",
            "conversation Ses05F_impro01, utterance 3 (Ses05F_impro01_M003): videoVisual is a str: a flat",
        ),
        (
            "shape",
            "utterance 3 (Ses05F_impro01_M003): videoText is a numpy array of shape [2, 5]: a flat array",
        ),
        (
            "speaker",
            "conversation Ses01F_impro01, utterance 1: videoSpeakers is None: a name, or a list with a single 1",
        ),
        (
            "one-hot",
            "conversation Ses01F_impro01, utterance 0: videoSpeakers is [1.0, 1.0]: exactly one 1 is expected",
        ),
        (
            "short-text",
            "conversation Ses01M_script02: videoText has 1 entries and videoLabels 2: give each utterance",
        ),
        (
            "short-ids",
            "conversation Ses01M_script02: videoIDs has 1 entries and videoLabels 2: give each utterance one",
        ),
        (
            "long-speakers",
            "conversation Ses01M_script02: videoSpeakers has 3 entries and videoLabels 2: give each",
        ),
        (
            "short-sentences",
            "conversation Ses01M_script02: videoSentence has 1 entries and videoLabels 2: give each",
        ),
        (
            "unknown-conversation",
            "testVid names conversation Ses06F_impro01, and videoLabels has none of that name: take",
        ),
        ("both-splits", "conversation Ses01F_impro01 is in both trainVid and testVid: take it out of one"),
        ("twice", "trainVid names conversation Ses01F_impro01 twice: name it once"),
        (
            "missing-audio",
            "conversation Ses01F_impro01 has no videoAudio: add it, leave audio out (--modalities)",
        ),
        ("items", "this pickle is not IEMOCAP's or MELD's file of features: eight to ten items"),
        ("empty-conversation", "conversation Ses01F_impro01 has no utterances: remove it from the file"),
        ("no-features", "there are no features"),
        ("not-a-corpus", "this pickle is not IEMOCAP's or MELD's file of features: eight to ten items"),
    ];
    assert_eq!(names("fault-", ".pkl").len(), cases.len());
    for (name, expected) in cases {
        let message = fault(&format!("fault-{name}.pkl"), &ReadOptions::default());
        let expected = expected.replace("{place}", place);
        assert!(message.contains(&expected), "{name}: {message}");
    }
}

/// A fault in a modality that is not asked for is no fault.
#[test]
fn what_is_left_out_is_not_checked() {
    let text = modalities(&["text"]);
    for name in ["fault-nan.pkl", "fault-missing-audio.pkl"] {
        assert_same(name, read_with(name, &text), &iemocap_corpus(&[0], 0.125, &[]));
    }
}

#[test]
fn nothing_outside_the_list_is_run_and_each_is_named() {
    let cases = [
        ("system-protocol0", "the pickle asks for posix.system, which no file of features needs: refused"),
        ("system-protocol2", "the pickle asks for posix.system,"),
        ("system-protocol4", "the pickle asks for posix.system,"),
        ("instance", "the pickle asks for os.system,"),
        ("eval", "the pickle asks for builtins.eval,"),
        ("complex", "numpy's type \"c16\" is not read"),
        ("fields", "numpy's type \"V8\" is not read"),
    ];
    assert_eq!(names("refused-", ".pkl").len(), cases.len());
    for (name, expected) in cases {
        let message = fault(&format!("refused-{name}.pkl"), &ReadOptions::default());
        assert!(message.starts_with("byte ") && message.contains(expected), "{name}: {message}");
    }
    // What the calls would have left behind.
    assert!(!Path::new("pickle-was-run").exists());
}

// Pickles of MELD.

#[test]
fn meld_with_its_crowds_of_speakers() {
    for name in ["meld-python2.pkl", "meld-numpy1.pkl", "meld-numpy2.pkl", "meld-arrays.pkl"] {
        assert_same(name, read(name), &meld_corpus(&[0, 1]));
    }
    let name = "meld-numpy2.pkl";
    let asked = ReadOptions { format: Some(Format::Meld), ..modalities(&["audio"]) };
    assert_same(name, read_with(name, &asked), &meld_corpus(&[1]));
    assert!(fault(name, &modalities(&["visual"])).contains("no \"visual\" modality in this file: ask for"));
}

#[test]
fn melds_variants_are_told_by_the_order_of_their_items() {
    for name in ["meld-swapped.pkl", "meld-without-sentiments.pkl"] {
        assert_same(name, read(name), &meld_corpus(&[0, 1]));
    }
    for name in ["meld-visual.pkl", "meld-visual-without-sentiments.pkl"] {
        assert_same(name, read(name), &meld_corpus(&[0, 1, 2]));
    }
}

#[test]
fn a_format_that_the_file_has_not() {
    let as_format = |format| ReadOptions { format: Some(format), ..ReadOptions::default() };
    let message = fault("meld-numpy2.pkl", &as_format(Format::Iemocap));
    assert!(
        message.contains("not IEMOCAP's file of features: nine items") && message.contains("9 items (a dict")
    );
    let message = fault("iemocap-numpy2-protocol2.pkl", &as_format(Format::Conversations));
    assert!(message.starts_with("line 1: column 1: no JSON that can be read: expected value"), "{message}");
    let message = fault("inline.jsonl", &as_format(Format::Iemocap));
    assert!(message.contains("0x7b is no pickle instruction"), "{message}");
    // IEMOCAP's layout with MELD's classes is what the caller says it is.
    let corpus = read_with("iemocap-numpy2-protocol2.pkl", &as_format(Format::Meld));
    assert_eq!(corpus.classes, meld::CLASSES);
}

// The pickle machine on programs that nobody would write.

/// Reads `program` as a pickle; the message when it is refused.
fn refusal(program: &[u8]) -> String {
    match pickle::read(program, "p") {
        Err(Error::Input(message)) => message,
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_truncation_is_an_error() {
    for name in
        ["other-protocol0.pkl", "other-protocol2.pkl", "other-protocol5.pkl", "iemocap-python2-protocol1.pkl"]
    {
        let bytes = std::fs::read(fixture(name)).unwrap();
        for length in 0..bytes.len() {
            assert!(pickle::read(&bytes[..length], name).is_err(), "{name} cut to {length} bytes");
        }
    }
}

#[test]
fn lengths_that_the_file_does_not_hold_allocate_nothing() {
    let announced: [&[u8]; 8] = [
        b"\x80\x05\x8e\xff\xff\xff\xff\xff\xff\xff\xff.",
        b"\x80\x05\x8d\xff\xff\xff\xff\xff\xff\xff\x7f.",
        b"\x80\x05\x96\0\0\0\0\0\0\0\x40.",
        b"\x80\x02B\xff\xff\xff\xff.",
        b"\x80\x02X\xff\xff\xff\xff.",
        b"\x80\x02T\xff\xff\xff\x7f.",
        b"\x80\x02\x8b\xff\xff\xff\x7f.",
        b"\x80\x02Nr\xff\xff\xff\xff.",
    ];
    for program in announced {
        let message = refusal(program);
        assert!(message.contains("the file is cut short") || message.contains("memo entry"), "{message}");
    }
    // An array of 2^62 numbers without a byte, and one whose size in bytes overflows.
    let array = |shape: &str| {
        let state = format!("(I1\n({shape}tcnumpy\ndtype\n(S'f8'\ntRI00\nS''\ntb.");
        format!("cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR{state}")
    };
    for shape in ["L4611686018427387904L\n", "L4294967296L\nL4294967296L\n", "I1\n"] {
        let message = refusal(array(shape).as_bytes());
        assert!(message.contains("0 bytes of content: the file is damaged"), "{message}");
    }
    // No elements are no trouble, whatever the other sizes.
    let empty = array("L4611686018427387904L\nI0\n");
    assert!(pickle::read(empty.as_bytes(), "p").is_ok());
}

#[test]
fn nesting_and_cycles_take_no_stack() {
    // A million lists, each in the next, and as many tuples.
    let mut program = vec![b']'; 1_000_000];
    program.extend(vec![b'a'; 999_999]);
    program.push(b'.');
    drop(pickle::read(&program, "p").unwrap());
    let mut program = vec![b')'];
    program.extend(vec![0x85; 1_000_000]);
    program.push(b'.');
    drop(pickle::read(&program, "p").unwrap());
    // A million marks.
    assert!(refusal(&[b"(".repeat(1_000_000), b".".to_vec()].concat()).contains("finds the stack empty"));
    // A list in itself, a dict under itself: values like others.
    let cyclic = pickle::read(b"]q\0h\0a}q\x01h\x01h\x01s\x86.", "p").unwrap();
    assert_eq!(cyclic.describe(cyclic.root()), "a tuple");
    // Nine of them make no corpus, and say so.
    let folder = tempfile::tempdir().unwrap();
    for (item, expected) in
        [(&b"]q\0h\0a"[..], "not IEMOCAP's or MELD's"), (b"}q\0h\0h\0s", "not IEMOCAP's or MELD's")]
    {
        let path = folder.path().join("cyclic.pkl");
        std::fs::write(&path, [b"(", item.repeat(9).as_slice(), b"t."].concat()).unwrap();
        let message = data::read(&path, &ReadOptions::default()).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }
    // The layout of IEMOCAP, each dict holding itself under the one conversation that there is.
    let item = b"}q\0(U\x01cK\x01U\x01dh\0u";
    let path = folder.path().join("cyclic.pkl");
    std::fs::write(&path, [b"(", item.repeat(7).as_slice(), b"(U\x01dl(lt."].concat()).unwrap();
    let message = data::read(&path, &ReadOptions::default()).unwrap_err().to_string();
    assert!(message.contains("conversation d: videoLabels is a dict: a list of whole numbers"), "{message}");
}

/// Calls that copy their arguments, on one large argument again and again.
#[test]
fn unfolding_beyond_the_files_size_is_refused() {
    let mut program = b"(".to_vec();
    program.extend(b"N".repeat(100_000));
    program.extend(b"lp0\n0cbuiltins\nset\np1\n0(g0\ntp2\n0");
    program.extend(b"g1\ng2\nR0".repeat(10_000));
    program.extend(b"N.");
    assert!(refusal(&program).contains("far more than its own size"));
    let mut program = b"X\xa0\x86\x01\0".to_vec();
    program.extend(b"a".repeat(100_000));
    program.extend(b"p0\n0c_codecs\nencode\np1\n0(g0\nVlatin1\ntp2\n0");
    program.extend(b"g1\ng2\nR0".repeat(10_000));
    program.extend(b"N.");
    assert!(refusal(&program).contains("far more than its own size"));
    // One array of 400 kB as the features of a million utterances: 50 GB of them.
    let utterances = 1_000_000;
    let mut program = b"\x80\x02(".to_vec();
    let list = |item: &[u8]| [b"}U\x01c(".as_slice(), &item.repeat(utterances), b"ls"].concat();
    program.extend(b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\0tU\x01btR(K\x01(J\x50\xc3\0\0tcnumpy\ndtype\n(U\x02f8tR\x89T\x80\x1a\x06\0");
    program.extend(vec![0; 400_000]);
    program.extend(b"tbq\x010");
    for item in [b"K\x01", b"K\x01", b"K\x01", b"h\x01"] {
        program.extend(list(item));
    }
    program.extend(b"}}}(U\x01cl(lt.");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("shared.pkl");
    std::fs::write(&path, program).unwrap();
    let message = data::read(&path, &ReadOptions::default()).unwrap_err().to_string();
    assert!(message.contains("far more than its own size"), "{message}");
}

#[test]
fn damaged_programs_are_refused_by_what_is_wrong() {
    let cases: [(&[u8], &str); 22] = [
        (b"", "the file is cut short"),
        (b".", "finds the stack empty"),
        (b"(.", "finds the stack empty"),
        (b"N(0.", ""),
        (b"\x80\x06.", "protocol 6 is newer than 5"),
        (b"\xff.", "0xff is no pickle instruction"),
        (b"t.", "finds no mark"),
        (b"(0a.", "finds the stack empty"),
        (b"NNa.", "no list"),
        (b"NNNs.", "no dict"),
        (b"}(Nu.", "a key and no value"),
        (b"g7\n.", "memo entry 7 is used before"),
        (b"Np99999\n.", "memo entry 99999 in a file of"),
        (b"I1x\n.", "\"1x\" is no whole number"),
        (b"F1,5\n.", "\"1,5\" is no number"),
        (b"Sabc\n.", "without its quotes"),
        (b"S'\\x4'\n.", "an escape without its digits"),
        (b"V\\u12\n.", "an escape without its digits"),
        (b"N)R.", "cannot be called"),
        (b"cnumpy\nndarray\n)R.", "built by calling its type"),
        (b"Q.", "finds"),
        (b"\x8a\x09\0\0\0\0\0\0\0\0\x01.", "beyond 63 bits"),
    ];
    for (program, expected) in cases {
        if expected.is_empty() {
            assert!(pickle::read(program, "p").is_ok(), "{program:?}");
            continue;
        }
        if program == b"Q." {
            assert!(refusal(program).contains("a persistent id"));
            continue;
        }
        let message = refusal(program);
        assert!(message.starts_with("p: byte ") && message.contains(expected), "{program:?}: {message}");
    }
}

/// Values of protocol 0 and the long forms, as `pickletools` documents them.
#[test]
fn numbers_and_texts_in_every_form() {
    let one = |program: &[u8]| {
        let pickle = pickle::read(program, "p").unwrap_or_else(|error| panic!("{error}"));
        match pickle.get(pickle.root()) {
            pickle::Value::Int(number) => number.to_string(),
            pickle::Value::Float(number) => format!("{number:?}"),
            pickle::Value::Bool(truth) => truth.to_string(),
            _ => pickle.text(pickle.root()).expect("text").into_owned(),
        }
    };
    assert_eq!(one(b"I-7\n."), "-7");
    assert_eq!(one(b"I01\n."), "true");
    assert_eq!(one(b"L-9223372036854775808L\n."), "-9223372036854775808");
    assert_eq!(one(b"J\xfe\xff\xff\xff."), "-2");
    assert_eq!(one(b"M\xfe\xff."), "65534");
    assert_eq!(one(b"\x8a\0."), "0");
    assert_eq!(one(b"\x8a\x01\xff."), "-1");
    assert_eq!(one(b"\x8a\x02\xff\0."), "255");
    assert_eq!(one(b"\x8b\x0a\0\0\0\x01\0\0\0\0\0\0\0\0\0."), "1");
    assert_eq!(one(b"F-1.5\n."), "-1.5");
    assert_eq!(one(b"Finf\n."), "inf");
    assert_eq!(one(b"G\x3f\xf8\0\0\0\0\0\0."), "1.5");
    assert_eq!(one(b"S'a\\'\\\\\\n\\xe9\\351\\q'\n."), "a'\\\n\u{e9}\u{e9}\\q");
    assert_eq!(one(b"S\"it's\"\n."), "it's");
    assert_eq!(one(b"U\x04caf\xe9."), "caf\u{e9}");
    assert_eq!(
        one(b"Vcaf\xe9 \\u03c9 \\U0001f600 \\ud83d\\ude00 \\n\n."),
        "caf\u{e9} \u{3c9} \u{1f600} \u{1f600} \\n"
    );
    assert_eq!(one(b"V\\ud83d.\n."), "\u{fffd}\u{fffd}\u{fffd}.");
    assert_eq!(one(b"X\x03\0\0\0\xe2\x98\x95."), "\u{2615}");
    assert_eq!(one(b"\x8c\x01a."), "a");
    assert_eq!(one(b"N2(10K\x05."), "5");
}

// The project's own format.

#[test]
fn features_inline_and_in_each_kind_of_file() {
    let double = |name: &str| if name.contains("half") { vec![] } else { vec![1] };
    for name in [
        "inline.jsonl",
        "side-safetensors.jsonl",
        "side-half-safetensors.jsonl",
        "side-npy.jsonl",
        "side-fortran-npy.jsonl",
        "side-big-endian-npy.jsonl",
        "side-half-npy.jsonl",
    ] {
        assert_same(name, read(name), &iemocap_corpus(&[0, 1, 2], 0.125, &double(name)));
        let some = read_with(name, &modalities(&["visual", "audio"]));
        assert_same(name, some, &iemocap_corpus(&[1, 2], 0.125, &double(name)));
    }
}

#[test]
fn what_is_written_reads_back_bit_for_bit() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("written.jsonl");
    let mut unlabelled = generate(&SyntheticOptions::small());
    unlabelled.conversations[0].utterances[1].label = None;
    unlabelled.conversations[2].split = Split::Validation;
    unlabelled.features[7] = 0.1;
    let corpora = [
        read("iemocap-numpy2-protocol2.pkl"),
        read("meld-numpy2.pkl"),
        read("without-visual.pkl"),
        generate(&SyntheticOptions::small()),
        unlabelled,
    ];
    for corpus in corpora {
        conversations::write(&corpus, &path).unwrap();
        let again = data::read(&path, &ReadOptions::default()).unwrap();
        assert_eq!(again.fingerprint(), corpus.fingerprint());
        assert_same("written.jsonl", again, &corpus);
    }
    let mut left: Vec<_> =
        std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["written.jsonl", "written.safetensors"]);
    // Single precision where it is enough.
    let floats = |corpus: &Corpus| {
        conversations::write(corpus, &path).unwrap();
        std::fs::metadata(folder.path().join("written.safetensors")).unwrap().len() as usize
    };
    let corpus = generate(&SyntheticOptions::small());
    let bytes = 4 * corpus.features.len();
    assert!((bytes..bytes + 400).contains(&floats(&corpus)));
}

#[test]
fn writing_where_it_cannot_be() {
    let folder = tempfile::tempdir().unwrap();
    let corpus = generate(&SyntheticOptions::small());
    for (name, expected) in [
        ("corpus.json", "ends in .jsonl"),
        ("corpus.safetensors", "ends in .jsonl"),
        ("missing/corpus.jsonl", "cannot write"),
    ] {
        let error = conversations::write(&corpus, &folder.path().join(name)).unwrap_err();
        assert!(matches!(&error, Error::Input(message) if message.contains(expected)), "{error}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// A file of conversations with `side` beside it, read.
fn read_lines(lines: &str, sides: &[&str]) -> Result<Corpus, Error> {
    let folder = tempfile::tempdir().unwrap();
    for side in sides {
        std::fs::copy(fixture(side), folder.path().join(side)).unwrap();
    }
    let path = folder.path().join("c.jsonl");
    std::fs::write(&path, lines).unwrap();
    data::read(&path, &ReadOptions::default()).map_err(|error| {
        let message = error.to_string();
        Error::input(
            message.replace(&format!("{}{}", folder.path().display(), std::path::MAIN_SEPARATOR), ""),
        )
    })
}

const HEADER: &str =
    r#"{"format":"coin-conversations","version":1,"classes":["joy","fear"],"modalities":{"text":2}}"#;

#[test]
fn a_small_file_of_ones_own() {
    let lines = [
        "\u{feff}",
        HEADER,
        "\n\r\n",
        r#"{"conversation":7,"speaker":"ann","label":"fear","text":"No!","features":{"text":[1,2.5]}}"#,
        "\r\n",
        r#"{"conversation":"b","utterance":5,"speaker":2,"label":null,"features":{"text":[-1e-3,0.1]}}"#,
        "\n",
        r#"{"conversation":"7","speaker":"bob","features":{"text":[3,4]}}"#,
    ]
    .concat();
    let corpus = read_lines(&lines, &[]).unwrap();
    assert_eq!(corpus.classes, ["joy", "fear"]);
    assert_eq!(corpus.features, [1.0, 2.5, 3.0, 4.0, -1e-3, 0.1]);
    let utterance = |id: &str, speaker: &str, label, text: Option<&str>| Utterance {
        id: id.into(),
        speaker: speaker.into(),
        label,
        text: text.map(String::from),
    };
    assert_eq!(corpus.conversations[0].id, "7");
    assert_eq!(
        corpus.conversations[0].utterances,
        [utterance("0", "ann", Some(1), Some("No!")), utterance("1", "bob", None, None)]
    );
    assert_eq!(corpus.conversations[1].utterances, [utterance("5", "2", None, None)]);
}

/// The example in the documentation, as it is pasted.
#[test]
fn the_documented_example_works() {
    let page =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/formats.md")).unwrap();
    let (_, example) = page.split_once("```jsonl\n").unwrap();
    let (example, _) = example.split_once("```").unwrap();
    let corpus = read_lines(example, &[]).unwrap();
    assert_eq!(
        corpus.modalities,
        [("text", 3), ("audio", 2)].map(|(name, width)| Modality { name: name.into(), width })
    );
    let speakers = |place: usize| -> Vec<&str> {
        corpus.conversations[place].utterances.iter().map(|utterance| utterance.speaker.as_str()).collect()
    };
    assert_eq!((speakers(0), corpus.conversations[0].split), (vec!["Ann", "Bob", "Cy"], Split::Train));
    assert_eq!((speakers(1), corpus.conversations[1].split), (vec!["Eve", "Dan"], Split::Test));
    assert_eq!(corpus.features[5..10], [0.0, 0.25, 1.5, 55.0, 0.125]);
}

#[test]
fn each_fault_of_a_file_of_ones_own_is_named_with_its_line() {
    let line = r#"{"conversation":"a","speaker":"ann","features":{"text":[1,2]}}"#;
    let header = |change: &str| HEADER.replace(r#""text":2}"#, &format!(r#""text":2}},{change}"#));
    let row = |row: usize| format!(r#"{{"conversation":"a","speaker":"ann","row":{row}}}"#);
    let wide = |side: &str| HEADER.replace(r#""text":2}"#, &format!(r#""text":5}},"features":"{side}""#));
    let cases: Vec<(String, &str)> = vec![
        (
            line.to_string(),
            "c.jsonl: line 1: the file has no header: begin it with {\"format\": \"coin-conversations\"",
        ),
        (
            "{".to_string(),
            "c.jsonl: line 1: column 1: the line is cut off within its JSON (EOF while parsing an object): write it \
             whole, and on one line",
        ),
        (
            format!("{HEADER}\n{}", &line[..33]),
            "c.jsonl: line 2: column 33: the line is cut off within its JSON (EOF while parsing a string)",
        ),
        (" \n\n".to_string(), "neither a pickle nor conversations"),
        (HEADER.to_string(), "c.jsonl: there are no conversations"),
        (
            HEADER.replace("coin-conversations", "x"),
            "c.jsonl: line 1: format \"x\" is not \"coin-conversations\"",
        ),
        (HEADER.replace(":1,", ":2,"), "c.jsonl: line 1: version 2 of the format is not known here: 1 is"),
        (HEADER.replace("classes", "labels"), "line 1: column 51: unknown field `labels`, expected one of"),
        (HEADER.replace(r#"{"text":2}"#, "{}"), "line 1: \"modalities\" names at least one"),
        (
            HEADER.replace(r#""text":2"#, r#""text":0"#),
            "line 1: \"modalities\" names at least one, each with its width",
        ),
        (HEADER.replace(r#""text":2"#, r#""a":1,"a":1"#), "modality \"a\" is named twice"),
        (
            header(r#""splits":{"dev":["a"]}}"#).replace("}}}", "}}"),
            "unknown field `dev`, expected one of `train`",
        ),
        (
            header(r#""splits":{"train":["a"],"test":["a"]}}"#).replace("}}}", "}}"),
            "c.jsonl: line 1: conversation a is in the train and in the test split: take it out of one",
        ),
        (
            format!("{}\n{line}", header(r#""splits":{"test":["z","y"]}}"#).replace("}}}", "}}")),
            "c.jsonl: the test split names conversation y, of which there is no utterance: take it out",
        ),
        (format!("{HEADER}\n\n{HEADER}"), "c.jsonl: line 3: column 9: unknown field `format`"),
        (
            format!("{HEADER}\n{}", line.replace("speaker", "name")),
            "c.jsonl: line 2: column 26: unknown field `name`",
        ),
        (format!("{HEADER}\n{}", line.replace(r#""ann""#, "1.5")), "expected text or a whole number"),
        (format!("{HEADER}\n{}", line.replace(r#""a""#, r#""""#)), "line 2: \"conversation\" is empty"),
        (
            format!("{HEADER}\n{}", line.replace("[1,2]", "[1]")),
            "line 2: features of \"text\" are 1 wide, 2 are expected",
        ),
        (
            format!("{HEADER}\n{}", line.replace("[1,2]", "[1,NaN]")),
            "c.jsonl: line 2: column 59: JSON has no NaN and no infinity: mend the value where it is computed",
        ),
        (
            format!("{HEADER}\n{}", line.replace("[1,2]", "[1,-Infinity]")),
            "c.jsonl: line 2: column 60: JSON has no NaN and no infinity",
        ),
        (
            format!("{HEADER}\n{}", line.replace("[1,2]", "[1,Name]")),
            "c.jsonl: line 2: column 59: no JSON that can be read: expected value",
        ),
        (format!("{HEADER}\n{}", line.replace("[1,2]", "[1,1e999]")), "number out of range"),
        (format!("{HEADER}\n{}", line.replace("[1,2]", "[1,null]")), "invalid type: null, expected f64"),
        (
            format!("{HEADER}\n{}", line.replace("text", "txt")),
            "features of \"txt\", none of the header's modalities (text)",
        ),
        (format!("{HEADER}\n{}", line.replace(r#""text":[1,2]"#, "")), "features of \"text\" are missing"),
        (
            format!("{HEADER}\n{}", line.replace(r#","features":{"text":[1,2]}"#, "")),
            "no features: give \"row\" or",
        ),
        (
            format!("{HEADER}\n{}", line.replace(r#""features""#, r#""row":1,"features""#)),
            "both \"row\" and \"features\"",
        ),
        (
            format!("{HEADER}\n{}", line.replace(r#""features""#, r#""label":"hate","features""#)),
            "c.jsonl: line 2: label \"hate\" is none of the header's classes (joy, fear): mend it",
        ),
        (
            format!("{HEADER}\n{}", line.replace(r#""features""#, r#""label":1,"features""#)),
            "invalid type: integer `1`",
        ),
        (
            format!("{HEADER}\n{}", row(0)),
            "c.jsonl: line 2: \"row\" needs a file of features: name it in the header's",
        ),
        (
            format!("{HEADER}\n{line}\n{}", line.replace(r#""speaker""#, r#""utterance":"0","speaker""#)),
            "c.jsonl: line 3: conversation a has an utterance 0 already: give each an id of its own, or none",
        ),
        (
            format!("{}\n{}", wide("side.safetensors"), row(10)),
            "c.jsonl: line 2: row 10 is beyond the 10 rows of side.safetensors",
        ),
        (
            format!("{}\n{}\n{}", wide("side.safetensors"), row(3), row(3)),
            "line 3: row 3 is line 2's: give each",
        ),
        (format!("{}\n{}", wide("none.safetensors"), row(0)), "none.safetensors: cannot read: "),
        (
            format!("{}\n{}", wide("side.csv"), row(0)),
            "side.csv: features are read from .safetensors and .npy files",
        ),
        (
            format!("{}\n{}", wide("side.npy"), row(0)),
            "side.npy: the array has shape [10, 12]: [utterances, 5] is announced",
        ),
        (
            format!("{}\n{}", wide("side-flat.npy"), row(0)),
            "side-flat.npy: the array has shape [120]: [utterances, 5]",
        ),
        (
            format!("{}\n{}", wide("side-integers.npy"), row(0)),
            "the array is of type \"<i4\": float16, float32 and float64",
        ),
        (
            format!("{}\n{}", wide("side.safetensors").replace("text", "face"), row(0)),
            "side.safetensors: there is no tensor \"face\": each modality of the header has a tensor of its name",
        ),
        (
            format!("{}\n{}", wide("side.safetensors").replace(":5", ":6"), row(0)),
            "side.safetensors: tensor \"text\" has shape [10, 5]: [utterances, 6] is announced",
        ),
    ];
    for (lines, expected) in cases {
        let sides = ["side.safetensors", "side.npy", "side-flat.npy", "side-integers.npy"];
        match read_lines(&lines, &[&sides[..], &["inline.jsonl"]].concat()) {
            Err(Error::Input(message)) => {
                assert!(message.contains(expected), "{message}\nnot: {expected}\n{lines}")
            }
            other => panic!("{lines}: {other:?}"),
        }
    }
    // What the name says is what counts, whether the file is there or not.
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("side.csv"), "1,2").unwrap();
    std::fs::write(folder.path().join("c.jsonl"), format!("{}\n{}", wide("side.csv"), row(0))).unwrap();
    let message =
        data::read(&folder.path().join("c.jsonl"), &ReadOptions::default()).unwrap_err().to_string();
    assert!(message.contains("side.csv: features are read from .safetensors and .npy files"), "{message}");
}

#[test]
fn files_that_are_something_else() {
    let folder = tempfile::tempdir().unwrap();
    let cases: [(&[u8], &str); 4] = [
        (b"", "the file is empty"),
        (b"\x1f\x8b\x08\0", "the file is compressed: unpack it first"),
        (b"PK\x03\x04", "this is a zip archive"),
        (b"hello", "neither a pickle nor conversations"),
    ];
    for (content, expected) in cases {
        let path = folder.path().join("file");
        std::fs::write(&path, content).unwrap();
        let error = data::read(&path, &ReadOptions::default()).unwrap_err();
        assert!(matches!(&error, Error::Input(message) if message.contains(expected)), "{error}");
    }
    for name in ["side.npy", "side.safetensors"] {
        assert!(fault(name, &ReadOptions::default()).contains("this is a file of features alone"));
    }
    for path in [folder.path().join("missing"), folder.path().to_path_buf()] {
        assert!(matches!(data::read(&path, &ReadOptions::default()), Err(Error::Input(_))));
    }
}

/// Line by line, as from standard input: the header may be left out.
#[test]
fn lines_one_at_a_time() {
    let mut reader = LineReader::new("standard input");
    assert_eq!(reader.read(b"  \n").unwrap(), None);
    let line = br#"{"conversation":"a","speaker":"ann","features":{"audio":[3],"text":[1,2]}}"#;
    let Some(Line::Utterance(utterance)) = reader.read(line).unwrap() else { panic!() };
    assert_eq!((utterance.conversation.as_str(), utterance.utterance.as_deref()), ("a", None));
    let modality = |name: &str, width| Modality { name: name.into(), width };
    let mut row = Vec::new();
    utterance.inline_features(&[modality("text", 2), modality("audio", 1)], &mut row).unwrap();
    assert_eq!(row, [1.0, 2.0, 3.0]);
    let message = utterance.inline_features(&[modality("text", 3)], &mut row).unwrap_err();
    assert_eq!(message, "features of \"text\" are 2 wide, 3 are expected");
    let message = utterance.inline_features(&[modality("face", 3)], &mut row).unwrap_err();
    assert_eq!(message, "features of \"face\" are missing: the line has [\"audio\", \"text\"]");
    let error = reader.error("what").to_string();
    assert_eq!(error, "standard input: line 2: what");
    // Without a header, a row has no file, and says so when features are needed.
    let Some(Line::Utterance(utterance)) = reader.read(br#"{"conversation":1,"speaker":1,"row":0}"#).unwrap()
    else {
        panic!()
    };
    assert_eq!(utterance.features, Features::Row(0));
    assert!(utterance.inline_features(&[], &mut row).is_err());
    // A header is one only at the start.
    assert!(
        reader
            .read(HEADER.as_bytes())
            .unwrap_err()
            .to_string()
            .contains("line 4: column 9: unknown field `format`")
    );

    let mut reader = LineReader::new("standard input");
    assert!(matches!(reader.read(HEADER.as_bytes()), Ok(Some(Line::Header(_)))));
    assert_eq!(reader.header().unwrap().modalities, [modality("text", 2)]);
    assert!(
        reader.read(line).unwrap_err().to_string().contains("features of \"audio\", none of the header's")
    );
}

// Anything at all: an error or a corpus, never a panic.

/// A fixture with some of its bytes changed, cut out or doubled.
fn mutated(names: &'static [&'static str]) -> impl Strategy<Value = (&'static str, Vec<u8>)> {
    let edits = prop::collection::vec((any::<prop::sample::Index>(), 0..4u8, any::<u8>()), 1..6);
    (prop::sample::select(names), edits).prop_map(|(name, edits)| {
        let mut bytes = std::fs::read(fixture(name)).unwrap();
        for (index, edit, byte) in edits {
            let at = index.index(bytes.len());
            match edit {
                0 => bytes[at] = byte,
                1 => bytes[at] ^= 1 << (byte % 8),
                2 => bytes.insert(at, byte),
                _ => {
                    bytes.drain(at..(at + 1 + usize::from(byte) / 8).min(bytes.len() - 1));
                }
            }
        }
        (name, bytes)
    })
}

/// Reads `bytes` under the name of the fixture they were made from, beside the files of features.
fn read_bytes(name: &str, bytes: &[u8]) -> Result<Corpus, Error> {
    let folder = tempfile::tempdir().unwrap();
    for side in ["side.safetensors", "side.npy", "side-fortran.npy"] {
        std::fs::copy(fixture(side), folder.path().join(side)).unwrap();
    }
    for lines in ["side-safetensors.jsonl", "side-npy.jsonl", "side-fortran-npy.jsonl"] {
        std::fs::copy(fixture(lines), folder.path().join(lines)).unwrap();
    }
    std::fs::write(folder.path().join(name), bytes).unwrap();
    // Of a mutated file of features, the conversations that name it are read.
    let read = match name.rsplit_once('.') {
        Some((stem, extension @ ("safetensors" | "npy"))) => format!("{stem}-{extension}.jsonl"),
        _ => name.to_string(),
    };
    data::read(&folder.path().join(read), &ReadOptions::default())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_are_no_pickle(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = pickle::read(&bytes, "p");
    }

    /// Only bytes that are instructions, few of which need an argument.
    #[test]
    fn random_programs_never_panic(program in prop::collection::vec(
        prop::sample::select(b"(.012NK\x01Jabdehlqst})]\x85\x86\x87\x88\x89\x8f\x90\x91\x93\x94\x81RbU\x02f8<I1\n".to_vec()),
        0..200,
    )) {
        let names = b"cnumpy.core.multiarray\n_reconstruct\nq\0cnumpy\nndarray\nq\x01cnumpy\ndtype\nq\x02cbuiltins\nset\nq\x03".to_vec();
        let _ = pickle::read(&[names, program].concat(), "p");
    }

    #[test]
    fn mutated_pickles_never_panic((name, bytes) in mutated(&[
        "iemocap-numpy1-protocol0.pkl", "iemocap-numpy2-protocol2.pkl", "iemocap-numpy2-fortran-protocol5.pkl",
        "iemocap-python2-protocol1.pkl", "other-protocol0.pkl", "other-protocol4.pkl", "other-labels.pkl",
        "half-mixed.pkl", "meld-numpy2.pkl", "meld-arrays.pkl", "meld-visual.pkl",
    ])) {
        if let Ok(corpus) = read_bytes(name, &bytes) {
            prop_assert_eq!(corpus.validate(), Ok(()));
        }
    }

    #[test]
    fn mutated_conversations_never_panic((name, bytes) in mutated(&[
        "inline.jsonl", "side-safetensors.jsonl", "side-npy.jsonl", "side.safetensors", "side.npy", "side-fortran.npy",
    ])) {
        if let Ok(corpus) = read_bytes(name, &bytes) {
            prop_assert_eq!(corpus.validate(), Ok(()));
        }
    }

    #[test]
    fn random_lines_never_panic(lines in prop::collection::vec("\\PC{0,80}", 0..4)) {
        let mut reader = LineReader::new("lines");
        for line in lines {
            let _ = reader.read(line.as_bytes());
        }
    }

    /// Any numbers of any widths come back as they were.
    #[test]
    fn any_features_read_back(
        widths in prop::collection::vec(1..4usize, 1..4),
        lengths in prop::collection::vec(1..5usize, 1..5),
        single in any::<bool>(),
        seed in any::<u64>(),
    ) {
        let modalities: Vec<Modality> =
            widths.iter().enumerate().map(|(index, &width)| Modality { name: format!("m{index}"), width }).collect();
        let mut stream = coin::random::Stream::new(seed, coin::random::purpose::TEST);
        let mut corpus = Corpus {
            source: "any".into(),
            classes: vec!["a".into(), "b \"c\"".into()],
            modalities,
            conversations: Vec::new(),
            features: Vec::new(),
        };
        let width = corpus.width();
        for (place, &length) in lengths.iter().enumerate() {
            let first = corpus.len();
            let utterances = (0..length).map(|index| Utterance {
                id: format!("u\n{index}"),
                speaker: stream.below(3).to_string(),
                label: [None, Some(0), Some(1)][stream.below(3)],
                text: (index % 2 == 0).then(|| "\u{1F600}\"\\".to_string()),
            });
            let utterances: Vec<Utterance> = utterances.collect();
            let split = [Split::Train, Split::Validation, Split::Test][stream.below(3)];
            corpus.conversations.push(Conversation { id: format!("c{place}"), split, first, utterances });
            for _ in 0..length * width {
                let number = f64::from_bits(stream.next_u64());
                let number = if number.is_finite() { number } else { 0.0 };
                let narrow = f64::from(number as f32);
                corpus.features.push(if single && narrow.is_finite() { narrow } else { number });
            }
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("any.jsonl");
        conversations::write(&corpus, &path).unwrap();
        let again = data::read(&path, &ReadOptions::default()).unwrap();
        prop_assert_eq!(again.fingerprint(), corpus.fingerprint());
        prop_assert_eq!(Corpus { source: "any".into(), ..again }, corpus);
    }
}

/// The real file, where there is one: `COIN_IEMOCAP` names it. Everything above runs without.
#[test]
fn the_real_iemocap_file() {
    let Some(path) = std::env::var_os("COIN_IEMOCAP") else {
        eprintln!("COIN_IEMOCAP is not set: the real file was not read");
        return;
    };
    let corpus =
        data::read(Path::new(&path), &ReadOptions::default()).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!((corpus.conversations.len(), corpus.len()), (151, 7433));
    let utterances = |split| {
        let conversations =
            corpus.conversations.iter().filter(move |conversation| conversation.split == split);
        conversations.map(|conversation| conversation.utterances.len()).sum::<usize>()
    };
    assert_eq!(
        (utterances(Split::Train), utterances(Split::Validation), utterances(Split::Test)),
        (5810, 0, 1623)
    );
    assert_eq!(
        corpus.conversations.iter().map(|conversation| conversation.utterances.len()).max(),
        Some(110)
    );
    assert!(corpus.conversations.iter().all(|one| one.utterances.iter().all(|one| one.label.is_some())));
}
