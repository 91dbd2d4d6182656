//! Every setting of a run and where it comes from: defaults, then a preset, then a TOML file, then flags, each
//! over the one before.
//!
//! All of them travel as one flat TOML table, so that a key means the same in a file, as a flag
//! (`dropout_keep` is `--dropout-keep`), in `--set dropout_keep=0.7` and in a checkpoint.

use std::num::{IntErrorKind, ParseIntError};
use std::path::Path;

use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use super::sweep;
use crate::error::{Error, Result};
use crate::model::config::Config;
use crate::model::device::Device;

/// A setting by name, with its help text.
pub struct Setting {
    pub key: &'static str,
    pub help: &'static str,
}

/// The keys of [`Config`].
pub const MODEL: &[Setting] = &[
    setting("embedding_size", "d: width of an utterance's embedding"),
    setting("history_length", "K: utterances before the target that the model reads at most"),
    setting("stacks", "L: stacks of contextual interaction"),
    setting("interaction", "Speaker mutual interaction: true, or false for the paper's ablation"),
    setting("stack_input", "What a stack hands to the next one: attention or gru"),
    setting("dropout_keep", "Probability that dropout keeps a value; 1 switches dropout off"),
    setting("adversarial", "Train on perturbed features too: true or false"),
    setting("epsilon", "Length of the perturbation, in standardised units"),
    setting("adversarial_norm", "Over what the gradient is normalised: sample, utterance or batch"),
    setting("batch_size", "B: target utterances in a batch"),
    setting("learning_rate", "Adam's learning rate in the first epoch"),
    setting("adam_beta1", "Adam's decay of the mean gradient"),
    setting("adam_beta2", "Adam's decay of the mean squared gradient"),
    setting("adam_epsilon", "Adam's epsilon"),
    setting("anneal_epochs", "Halve the learning rate every so many epochs"),
    setting("patience", "Stop after so many epochs without a better validation loss"),
    setting("epochs", "Epochs at most"),
    setting("validation_fraction", "Share of the training conversations held out, where the data name none"),
    setting("seed", "Seed of initial values, batches, dropout and held-out conversations"),
    setting("dtype", "Precision of the arithmetic: f32, f64 (on the CPU), or mixed (on a card)"),
];

/// The keys of [`RunSettings`].
pub const RUN: &[Setting] = &[
    setting("data", "File of conversations, or synthetic"),
    setting("format", "Format of the data file; told by its content when not given"),
    setting("modalities", "Modalities to read; all that the file has when not given"),
    setting("seeds", "Train so many seeds: seed, seed + 1, ..."),
    setting(
        "sweep",
        "Train every combination of values, as in epsilon=1,3; may be given again for other settings",
    ),
    setting("at_once", "Runs to train side by side at most; as many as are of use and fit when not given"),
    setting("device", "Where to compute: cpu, cuda, or cuda:N for card N"),
    setting("threads", "Threads to compute with; the available cores when not given"),
    setting("checkpoint_minutes", "Save within an epoch too, every so many minutes; 0 saves at its end only"),
    setting("out", "Run folder"),
];

const fn setting(key: &'static str, help: &'static str) -> Setting {
    Setting { key, help }
}

/// Those of [`RUN`] that are counted from 1, and how far.
const RUN_COUNTS: [(&str, usize); 3] = [("seeds", 10_000), ("threads", 4096), ("at_once", 10_000)];

/// The paper's symbols.
const ALIASES: [(&str, &str); 5] = [
    ("d", "embedding_size"),
    ("K", "history_length"),
    ("L", "stacks"),
    ("B", "batch_size"),
    ("eps", "epsilon"),
];

/// Between swept settings in one text.
pub const SEPARATOR: &str = ";";

/// What a run does besides what the model is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RunSettings {
    /// `None` and `synthetic`: the synthetic conversations.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub modalities: Option<Vec<String>>,
    pub seeds: usize,
    /// Each `setting=value,value`: [`super::sweep`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sweep: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at_once: Option<usize>,
    pub device: Device,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads: Option<usize>,
    pub checkpoint_minutes: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub out: Option<String>,
}

impl Default for RunSettings {
    fn default() -> Self {
        RunSettings {
            data: None,
            format: None,
            modalities: None,
            seeds: 1,
            sweep: Vec::new(),
            at_once: None,
            device: Device::Cpu,
            threads: None,
            checkpoint_minutes: 10.0,
            out: None,
        }
    }
}

/// Values for some of the settings, under their own names, each of the right type.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Layer(Table);

impl Layer {
    /// The paper's values.
    pub fn paper() -> Self {
        let mut table = Table::new();
        for (key, value) in [
            ("embedding_size", Value::Integer(100)),
            ("history_length", Value::Integer(40)),
            ("stacks", Value::Integer(3)),
            ("interaction", Value::Boolean(true)),
            // As printed, and as the flag of the same name of the paper's ancestor is read.
            ("dropout_keep", Value::Float(0.3)),
            ("adversarial", Value::Boolean(true)),
            ("batch_size", Value::Integer(512)),
            ("learning_rate", Value::Float(1e-3)),
            ("adam_beta1", Value::Float(0.9)),
            ("adam_beta2", Value::Float(0.999)),
            ("adam_epsilon", Value::Float(1e-8)),
            ("anneal_epochs", Value::Integer(60)),
            ("patience", Value::Integer(10)),
        ] {
            table.insert(key.to_string(), value);
        }
        Layer(table)
    }

    /// A TOML file's settings.
    pub fn file(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|error| Error::io("read", path, &error))?;
        let table: Table =
            text.parse().map_err(|error| Error::input(format!("{}: {error}", path.display())))?;
        let mut layer = Layer::default();
        for (key, value) in table {
            layer
                .insert(&key, value)
                .map_err(|error| Error::input(format!("{}: {error}", path.display())))?;
        }
        Ok(layer)
    }

    /// Sets `key` from what stands on the command line.
    pub fn set_text(&mut self, key: &str, text: &str) -> Result<()> {
        let value = value_of(canonical(key)?, text)?;
        self.insert(key, value)
    }

    /// Of `--set key=value`, model settings only.
    pub fn overrides<'a>(pairs: impl IntoIterator<Item = &'a String>) -> Result<Self> {
        let mut layer = Layer::default();
        for pair in pairs {
            let (key, text) = pair.split_once('=').ok_or_else(|| {
                Error::input(format!("--set {pair}: write --set key=value, as in --set dropout_keep=0.7"))
            })?;
            let key = canonical_among(key.trim(), &[MODEL])
                .map_err(|error| Error::input(format!("--set {pair}: {error}")))?;
            layer
                .set_text(key, text.trim())
                .map_err(|error| Error::input(format!("--set {pair}: {error}")))?;
        }
        Ok(layer)
    }

    fn insert(&mut self, key: &str, value: Value) -> Result<()> {
        let key = canonical(key)?;
        check_type(key, &value)?;
        if self.0.insert(key.to_string(), value).is_some() {
            return Err(Error::input(format!("{key} is set twice (d, K, L, B and eps are short names)")));
        }
        Ok(())
    }

    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// `config` with this layer's model settings over it.
    pub fn over(&self, config: &Config) -> Result<Config> {
        let mut table = table_of(config)?;
        for (key, value) in &self.0 {
            if is_model_key(key) {
                table.insert(key.clone(), value.clone());
            }
        }
        let config: Config = table.try_into().map_err(unreadable)?;
        config.validate()?;
        Ok(config)
    }
}

/// All settings of a run.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Settings {
    pub run: RunSettings,
    pub config: Config,
}

impl Settings {
    /// Defaults with the layers over them, the later over the earlier.
    pub fn resolve(layers: &[Layer]) -> Result<Self> {
        Settings::default().with(layers)
    }

    /// These settings with the layers over them, the later over the earlier. What two settings are to each other counts when all
    /// are there.
    pub fn with(&self, layers: &[Layer]) -> Result<Self> {
        let mut run = table_of(&self.run)?;
        let mut config = self.config.clone();
        for layer in layers {
            let of_run = layer.0.iter().filter(|(key, _)| !is_model_key(key));
            run.extend(of_run.map(|(key, value)| (key.clone(), value.clone())));
            config = layer.over(&config)?;
        }
        let settings = Settings { run: run.try_into().map_err(unreadable)?, config };
        settings.validate()?;
        Ok(settings)
    }

    fn validate(&self) -> Result<()> {
        let RunSettings { seeds, checkpoint_minutes, .. } = self.run;
        if !(0.0..=1e6).contains(&checkpoint_minutes) {
            return Err(Error::input(format!(
                "checkpoint_minutes is {checkpoint_minutes}; it must be 0 to 1000000"
            )));
        }
        // The last seed is written to a TOML file too, whose integers end there.
        if self.config.seed > i64::MAX as u64 - seeds as u64 {
            return Err(Error::input(format!("seed is {}; it is too large", self.config.seed)));
        }
        sweep::check(self)
    }

    /// A file that [`Layer::file`] reads back to the same settings. `out` stays out: the file stands in it.
    pub fn to_toml(&self) -> Result<String> {
        let run = RunSettings { out: None, ..self.run.clone() };
        let mut text = toml::to_string(&run).map_err(unwritable)?;
        text.push_str(&toml::to_string(&self.config).map_err(unwritable)?);
        Ok(text)
    }

    /// The settings in which two runs differ, with both values.
    pub fn differences(&self, other: &Settings) -> Result<Vec<(String, String, String)>> {
        let flat = |settings: &Settings| -> Result<Table> {
            let mut table = table_of(&settings.run)?;
            table.extend(table_of(&settings.config)?);
            Ok(table)
        };
        let (ours, theirs) = (flat(self)?, flat(other)?);
        let shown = |value: Option<&Value>| value.map_or_else(|| "not set".to_string(), ToString::to_string);
        let keys = RUN.iter().chain(MODEL).map(|setting| setting.key);
        Ok(keys
            .filter(|key| ours.get(*key) != theirs.get(*key))
            .map(|key| (key.to_string(), shown(ours.get(key)), shown(theirs.get(key))))
            .collect())
    }
}

/// A setting's default as it is written; `None` where it has none.
pub fn default_of(key: &str) -> Option<String> {
    let mut defaults = table_of(&Config::default()).ok()?;
    defaults.extend(table_of(&RunSettings::default()).ok()?);
    defaults.get(key).map(|value| value.to_string().trim_matches('"').to_string())
}

fn is_model_key(key: &str) -> bool {
    MODEL.iter().any(|setting| setting.key == key)
}

/// A setting's own name, from that or from the paper's symbol for it.
pub(super) fn canonical(key: &str) -> Result<&'static str> {
    canonical_among(key, &[RUN, MODEL])
}

fn canonical_among(key: &str, among: &[&[Setting]]) -> Result<&'static str> {
    let full = ALIASES.iter().find(|(alias, _)| *alias == key).map_or(key, |(_, full)| full);
    let known = || among.iter().flat_map(|settings| settings.iter()).map(|setting| setting.key);
    known().find(|known| *known == full).ok_or_else(|| {
        let known: Vec<&str> = known().collect();
        Error::input(format!("unknown setting {key:?}; known are {}", known.join(", ")))
    })
}

/// What a setting takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Whole,
    Number,
    Truth,
    Text,
    Texts,
}

impl Kind {
    /// By the type of its default.
    fn of(key: &str) -> Result<Kind> {
        Ok(match key {
            "modalities" | "sweep" => Kind::Texts,
            "threads" | "at_once" => Kind::Whole,
            "data" | "format" | "out" => Kind::Text,
            _ => {
                let mut defaults = table_of(&Config::default())?;
                defaults.extend(table_of(&RunSettings::default())?);
                match defaults.get(key) {
                    Some(Value::Integer(_)) => Kind::Whole,
                    Some(Value::Float(_)) => Kind::Number,
                    Some(Value::Boolean(_)) => Kind::Truth,
                    _ => Kind::Text,
                }
            }
        })
    }

    fn takes(self, value: &Value) -> bool {
        match self {
            Kind::Whole => value.is_integer(),
            Kind::Number => value.is_float() || value.is_integer(),
            Kind::Truth => value.is_bool(),
            Kind::Text => value.is_str(),
            Kind::Texts => value.as_array().is_some_and(|all| all.iter().all(Value::is_str)),
        }
    }

    /// The error of something else.
    fn wrong(self, key: &str, found: impl std::fmt::Display) -> Error {
        let what = match self {
            Kind::Whole => "a whole number",
            Kind::Number => "a number",
            Kind::Truth => "true or false",
            Kind::Text => "a text",
            Kind::Texts => "a list of texts",
        };
        Error::input(format!("{key} is {what}, not {found}"))
    }
}

/// What a command line's text means for a setting.
fn value_of(key: &'static str, text: &str) -> Result<Value> {
    let kind = Kind::of(key)?;
    let wrong = || kind.wrong(key, format_args!("{text:?}"));
    let texts = |separator: &str| {
        let texts = text.split(separator).map(|one| Value::String(one.trim().to_string()));
        Value::Array(texts.collect())
    };
    match kind {
        Kind::Whole => text.parse().map(Value::Integer).map_err(|error: ParseIntError| match error.kind() {
            IntErrorKind::PosOverflow | IntErrorKind::NegOverflow => out_of_range(key, text),
            _ => wrong(),
        }),
        Kind::Number => text.parse().map(Value::Float).map_err(|_| wrong()),
        Kind::Truth => text.parse().map(Value::Boolean).map_err(|_| wrong()),
        Kind::Text => Ok(Value::String(text.to_string())),
        Kind::Texts => Ok(texts(if key == "sweep" { SEPARATOR } else { "," })),
    }
}

/// What a whole number may be.
fn range(key: &str) -> (i64, i64) {
    let count = Config::COUNTS.iter().chain(&RUN_COUNTS).find(|(name, _)| *name == key);
    // What is no count is the seed.
    count.map_or((0, i64::MAX), |&(_, most)| (1, most as i64))
}

/// The error of a whole number that the setting may not be.
fn out_of_range(key: &str, value: impl std::fmt::Display) -> Error {
    let (least, most) = range(key);
    Error::input(format!("{key} is {value}; it must be {least} to {most}"))
}

/// Refuses a value of the wrong type, out of range or outside a choice, by the setting's name.
fn check_type(key: &str, value: &Value) -> Result<()> {
    let kind = Kind::of(key)?;
    if !kind.takes(value) {
        return Err(kind.wrong(key, value));
    }
    let (least, most) = range(key);
    if let Some(value) =
        value.as_integer().filter(|value| kind == Kind::Whole && !(least..=most).contains(value))
    {
        return Err(out_of_range(key, value));
    }
    let mut table = Table::new();
    table.insert(key.to_string(), value.clone());
    let checked = if is_model_key(key) {
        table.try_into::<Config>().map(drop)
    } else {
        table.try_into::<RunSettings>().map(drop)
    };
    // Those are choices, which name their setting.
    checked.map_err(|error: toml::de::Error| Error::input(error.message()))
}

fn table_of(value: &impl Serialize) -> Result<Table> {
    Table::try_from(value).map_err(unwritable)
}

fn unwritable(error: toml::ser::Error) -> Error {
    Error::input(format!("the settings cannot be written as TOML: {error}"))
}

fn unreadable(error: toml::de::Error) -> Error {
    Error::input(format!("settings: {}", error.message()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(pairs: &[(&str, &str)]) -> Layer {
        let mut layer = Layer::default();
        for (key, text) in pairs {
            layer.set_text(key, text).unwrap();
        }
        layer
    }

    fn file(text: &str) -> Result<Layer> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.toml");
        std::fs::write(&path, text).unwrap();
        Layer::file(&path)
    }

    #[test]
    fn the_listed_settings_are_those_that_exist() {
        let keys = |table: Table| table.keys().cloned().collect::<Vec<_>>();
        let listed = |settings: &[Setting]| {
            let mut keys: Vec<String> = settings.iter().map(|one| one.key.to_string()).collect();
            keys.sort();
            keys
        };
        assert_eq!(listed(MODEL), keys(table_of(&Config::default()).unwrap()));
        let every = RunSettings {
            data: Some("d".into()),
            format: Some("f".into()),
            modalities: Some(Vec::new()),
            sweep: vec!["epsilon=1".into()],
            at_once: Some(1),
            threads: Some(1),
            out: Some("o".into()),
            ..RunSettings::default()
        };
        assert_eq!(listed(RUN), keys(table_of(&every).unwrap()));
    }

    #[test]
    fn later_layers_win() {
        let layers = [
            Layer::paper(),
            file("dropout_keep = 0.5\nepochs = 7\nd = 50\nseeds = 2\n").unwrap(),
            flags(&[("epochs", "9"), ("K", "20"), ("modalities", "text, audio"), ("threads", "3")]),
        ];
        let settings = Settings::resolve(&layers).unwrap();
        assert_eq!(settings.config.dropout_keep, 0.5);
        assert_eq!(settings.config.epochs, 9);
        assert_eq!((settings.config.embedding_size, settings.config.history_length), (50, 20));
        assert_eq!((settings.run.seeds, settings.run.threads), (2, Some(3)));
        assert_eq!(settings.run.modalities, Some(vec!["text".into(), "audio".into()]));
        assert_eq!(Settings::resolve(&[]).unwrap(), Settings::default());
        assert_eq!(Settings::resolve(&[Layer::paper()]).unwrap().config.dropout_keep, 0.3);
    }

    #[test]
    fn the_resolved_file_gives_the_same_settings_again() {
        let mut settings = Settings::resolve(&[flags(&[
            ("learning_rate", "0.1"),
            ("seed", "9007199254740993"),
            ("data", "a \"b\".pkl"),
            ("modalities", "text"),
            ("adversarial_norm", "batch"),
        ])])
        .unwrap();
        settings.config.epsilon = 0.1 + 0.2;
        let again = Settings::resolve(&[file(&settings.to_toml().unwrap()).unwrap()]).unwrap();
        assert_eq!(again, settings);
        settings.run.out = Some("runs/x".into());
        assert!(!settings.to_toml().unwrap().contains("runs/x"));
    }

    #[test]
    fn mistakes_are_named() {
        let cases = [
            ("drop_out = 1", "c.toml: unknown setting \"drop_out\"; known are data, format, modalities,"),
            ("embedding_size = \"wide\"", "c.toml: embedding_size is a whole number, not \"wide\""),
            ("patience = -1", "c.toml: patience is -1; it must be 1 to 1000000"),
            ("dtype = \"f16\"", "c.toml: dtype is one of f32, f64, mixed, not f16"),
            ("dtype = 32", "c.toml: dtype is a text, not 32"),
            ("device = \"gpu\"", "c.toml: device is cpu, cuda or cuda:N with a card's number, not gpu"),
            ("modalities = [\"text\", 1]", "c.toml: modalities is a list of texts, not [\"text\", 1]"),
            ("epsilon = true", "c.toml: epsilon is a number, not true"),
            ("d = 3\nembedding_size = 4", "c.toml: embedding_size is set twice"),
            ("epochs = 1\nepochs = 2", "c.toml: TOML parse error at line 2"),
            ("[model]\nepochs = 2", "c.toml: unknown setting \"model\""),
        ];
        for (text, expected) in cases {
            let error = file(text).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
            assert_eq!(error.exit_code(), 2);
        }
        for (key, text, expected) in [
            ("epochs", "many", "epochs is a whole number, not \"many\""),
            ("interaction", "yes", "interaction is true or false, not \"yes\""),
            ("B", "-1", "batch_size is -1; it must be 1 to 1000000"),
            ("B", "99999999999999999999", "batch_size is 99999999999999999999; it must be 1 to 1000000"),
            ("threads", "-99999999999999999999", "threads is -99999999999999999999; it must be 1 to 4096"),
            ("seed", "-1", "seed is -1; it must be 0 to 9223372036854775807"),
            ("dtype", "f16", "dtype is one of f32, f64, mixed, not f16"),
            ("stack_input", "x", "stack_input is one of attention, gru, not x"),
            ("device", "gpu", "device is cpu, cuda or cuda:N with a card's number, not gpu"),
            ("threads", "0", "threads is 0; it must be 1 to 4096"),
            ("seeds", "0", "seeds is 0; it must be 1 to 10000"),
        ] {
            let error = Layer::default().set_text(key, text).unwrap_err();
            assert_eq!(error.to_string(), expected);
            assert_eq!(error.exit_code(), 2);
        }
        for (key, text, expected) in [
            (
                "epsilon",
                "1e38",
                "epsilon is 100000000000000000000000000000000000000; it must be 0 to 1000000",
            ),
            ("adam_epsilon", "1e-50", "it must be 1e-37 to 1000000"),
            ("adam_epsilon", "1e38", "it must be 1e-37 to 1000000"),
            ("checkpoint_minutes", "NaN", "checkpoint_minutes is NaN; it must be 0 to 1000000"),
            ("checkpoint_minutes", "-1", "checkpoint_minutes is -1; it must be 0 to 1000000"),
            ("dropout_keep", "0", "dropout_keep is 0; it must be above 0, at most 1"),
            ("seed", "9223372036854775807", "seed is 9223372036854775807; it is too large"),
        ] {
            let error = Settings::resolve(&[flags(&[(key, text)])]).unwrap_err();
            assert!(error.to_string().starts_with(key) && error.to_string().ends_with(expected), "{error}");
        }
    }

    #[test]
    fn a_sweep_is_written_in_a_file_and_as_a_flag() {
        let from_file = file("sweep = [\"eps=1,3\", \"dropout_keep=0.5\"]\nat_once = 4\n").unwrap();
        let from_flags = flags(&[("sweep", "eps=1,3; dropout_keep=0.5"), ("at_once", "4")]);
        let [one, other] = [from_file, from_flags].map(|layer| Settings::resolve(&[layer]).unwrap());
        assert_eq!(one, other);
        assert_eq!(one.run.at_once, Some(4));
        let again = Settings::resolve(&[file(&one.to_toml().unwrap()).unwrap()]).unwrap();
        assert_eq!(again, one);
        let error = Settings::resolve(&[flags(&[("sweep", "stacks=2")])]).unwrap_err();
        assert!(error.to_string().starts_with("sweep stacks=2: stacks cannot be swept"), "{error}");
    }

    #[test]
    fn overrides_are_of_the_model_only() {
        let set = |pair: &str| Layer::overrides([&pair.to_string()]);
        assert_eq!(set("eps=0.5").unwrap().over(&Config::default()).unwrap().epsilon, 0.5);
        assert!(set("epsilon").unwrap_err().to_string().contains("write --set key=value"));
        let error = set("threads=2").unwrap_err().to_string();
        assert!(
            error.starts_with("--set threads=2: unknown setting \"threads\"; known are embedding_size,"),
            "{error}"
        );
    }

    #[test]
    fn differences_are_told_by_name_and_value() {
        let one = Settings::default();
        let two = Settings::resolve(&[flags(&[("epochs", "3"), ("data", "x.pkl")])]).unwrap();
        let differences = one.differences(&two).unwrap();
        let expected = [("data", "not set", "\"x.pkl\""), ("epochs", "200", "3")];
        let expected = expected.map(|(key, one, two)| (key.to_string(), one.to_string(), two.to_string()));
        assert_eq!(differences, expected);
    }
}
