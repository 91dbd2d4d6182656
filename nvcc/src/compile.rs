//! Calls of nvcc, and what of them can be spared.

use crate::find::{READ_BY_NVCC, Toolkit};
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs;
use std::hash::{DefaultHasher, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// How a source is compiled, besides what every one is: `-O3 -std=c++17 -lineinfo`, for `compute_75` and up.
#[derive(Debug, Clone)]
pub struct Options {
    folder: PathBuf,
    arguments: Vec<OsString>,
}

impl Options {
    /// Outputs go to `folder` under the source's name: two sources of one name need two folders.
    pub fn new(folder: &Path) -> Options {
        Options { folder: folder.to_path_buf(), arguments: Vec::new() }
    }
    /// A folder in which `#include` looks: `-I`.
    pub fn include(mut self, folder: &Path) -> Options {
        self.arguments.extend(["-I".into(), folder.into()]);
        self
    }
    /// A macro: `-D name=value`.
    pub fn define(mut self, name: &str, value: impl fmt::Display) -> Options {
        self.arguments.extend(["-D".into(), format!("{name}={value}").into()]);
        self
    }
    /// Any other argument of nvcc.
    pub fn flag(mut self, flag: impl AsRef<OsStr>) -> Options {
        self.arguments.push(flag.as_ref().into());
        self
    }
}

/// Machine code, and what it takes of a card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fatbin {
    pub path: PathBuf,
    /// What `ptxas` prints for each kernel and card: registers, spills, shared memory.
    pub resources: String,
}

/// A call of nvcc that failed. `Display` has what it printed, with file and line, and the command.
#[derive(Debug, Clone)]
pub struct CompileError {
    pub source: PathBuf,
    /// The call, in a form that a shell takes.
    pub command: String,
    /// What nvcc printed, or why it could not be called.
    pub message: String,
}

/// Cards that a fatbin has machine code for: Turing, Ampere (data centre and desktop), Ada, Hopper. Later cards compile
/// the PTX that it holds too.
const CARDS: [u32; 5] = [75, 80, 86, 89, 90];

impl Toolkit {
    /// Compiles to PTX for `compute_75`: `gemm.cu` becomes `gemm.ptx` in the options' folder.
    pub fn compile_ptx(&self, source: &Path, options: &Options) -> Result<PathBuf, CompileError> {
        let output = options.output(source, "ptx");
        self.compile(source, &output, &["-ptx".into(), "-arch=compute_75".into()], options)?;
        Ok(output)
    }

    /// Compiles to machine code for every supported card, and PTX for those to come: `gemm.cu` becomes `gemm.fatbin`. All
    /// of it comes from the one PTX for `compute_75` that [`Toolkit::compile_ptx`] makes, so that what was checked on the
    /// simulator is what runs on any card.
    pub fn compile_fatbin(&self, source: &Path, options: &Options) -> Result<Fatbin, CompileError> {
        let output = options.output(source, "fatbin");
        let cards = CARDS.iter().map(|card| format!("arch=compute_75,code=sm_{card}"));
        let codes = cards.chain(["arch=compute_75,code=compute_75".to_owned()]);
        let kind: Vec<OsString> = ["-fatbin".into(), "--resource-usage".into()]
            .into_iter()
            .chain(codes.flat_map(|code| ["-gencode".into(), code.into()]))
            .collect();
        let resources = self.compile(source, &output, &kind, options)?;
        Ok(Fatbin { path: output, resources })
    }

    /// Makes `output` unless it is there already from the same sources, command and compiler. Returns what nvcc printed.
    fn compile(
        &self,
        source: &Path,
        output: &Path,
        kind: &[OsString],
        options: &Options,
    ) -> Result<String, CompileError> {
        let beside = Beside::new(output);
        let mut command = Command::new(&self.nvcc);
        command.args(kind).args(["-O3", "-std=c++17", "-lineinfo"]).args(&options.arguments);
        command.arg("-MMD").arg("-MF").arg(&beside.dependencies).arg("-o").arg(output).arg(source);
        let line = shell_line(&command);
        let failed = |message: String| CompileError { source: source.into(), command: line.clone(), message };

        let recipe = self.recipe(&line);
        if output.is_file()
            && let Some(stamp) = beside.read_stamp()
            && stamp == beside.stamp(&recipe)
            && let Ok(printed) = fs::read_to_string(&beside.printed)
        {
            return Ok(printed);
        }
        // Without its stamp an output is made again: it goes first and comes last.
        beside
            .remove_stamp()
            .map_err(|error| failed(format!("cannot write beside {}: {error}", output.display())))?;
        fs::create_dir_all(&options.folder)
            .map_err(|error| failed(format!("cannot make {}: {error}", options.folder.display())))?;
        let result = command.output().map_err(|error| failed(format!("cannot call nvcc: {error}")))?;
        let printed = [result.stdout, result.stderr].concat();
        let printed = String::from_utf8_lossy(&printed).into_owned();
        if !result.status.success() {
            let ending =
                if printed.trim().is_empty() { format!("it ended with {}", result.status) } else { printed };
            return Err(failed(ending));
        }
        fs::write(&beside.printed, &printed)
            .and_then(|()| fs::write(&beside.stamp, beside.stamp(&recipe)))
            .map_err(|error| failed(format!("cannot write beside {}: {error}", output.display())))?;
        Ok(printed)
    }

    /// Everything that an output depends on besides files.
    fn recipe(&self, line: &str) -> String {
        let mut recipe = format!("nvcc {}\n{line}\n", self.version);
        for variable in READ_BY_NVCC {
            if let Some(value) = std::env::var_os(variable) {
                recipe += &format!("{variable}={}\n", value.to_string_lossy());
            }
        }
        recipe
    }
}

impl Options {
    fn output(&self, source: &Path, extension: &str) -> PathBuf {
        self.folder.join(source.file_stem().unwrap_or(source.as_os_str())).with_extension(extension)
    }
}

/// The files beside an output that tell how it was made.
struct Beside {
    /// What nvcc read, as a rule for make.
    dependencies: PathBuf,
    /// What nvcc printed.
    printed: PathBuf,
    /// The recipe, and a hash of every file.
    stamp: PathBuf,
}

impl Beside {
    fn new(output: &Path) -> Beside {
        let with = |ending: &str| {
            let mut name = output.as_os_str().to_owned();
            name.push(ending);
            PathBuf::from(name)
        };
        Beside { dependencies: with(".d"), printed: with(".log"), stamp: with(".stamp") }
    }

    fn read_stamp(&self) -> Option<String> {
        fs::read_to_string(&self.stamp).ok()
    }

    fn remove_stamp(&self) -> io::Result<()> {
        match fs::remove_file(&self.stamp) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// What the stamp has to be now. Contents are what counts: files that were checked out anew have new times.
    fn stamp(&self, recipe: &str) -> String {
        let mut stamp = recipe.to_owned();
        for file in self.read_dependencies() {
            let hash = match fs::read(&file) {
                Ok(content) => {
                    let mut hasher = DefaultHasher::new();
                    hasher.write(&content);
                    format!("{:016x}", hasher.finish())
                }
                Err(error) => error.to_string(),
            };
            stamp += &format!("{hash} {}\n", file.display());
        }
        stamp
    }

    fn read_dependencies(&self) -> Vec<PathBuf> {
        parse_dependencies(&fs::read_to_string(&self.dependencies).unwrap_or_default())
    }
}

/// Sources and headers of an output that was compiled. The compiler's own headers are left out: its version stands for
/// them.
pub(crate) fn dependencies(output: &Path) -> Vec<PathBuf> {
    Beside::new(output).read_dependencies()
}

/// The lines with warnings of what nvcc printed for an output.
pub(crate) fn warnings(output: &Path) -> Vec<String> {
    let printed = fs::read_to_string(Beside::new(output).printed).unwrap_or_default();
    printed.lines().filter(|line| line.contains("warning")).map(str::to_owned).collect()
}

/// Reads `output : a.cu \ b.h`, in which a space of a name has a backslash before it. nvcc names its own headers through
/// the folder that it is in, as `bin/..//include/cuda_fp16.h`.
fn parse_dependencies(text: &str) -> Vec<PathBuf> {
    let Some((_, files)) = text.split_once(" : ") else { return Vec::new() };
    let mut names = vec![String::new()];
    let mut characters = files.chars().peekable();
    while let Some(character) = characters.next() {
        let escaped = character == '\\' && matches!(characters.peek(), Some(' ' | '#' | '\\'));
        match (character, names.last_mut()) {
            ('\\', Some(name)) if escaped => name.extend(characters.next()),
            ('\\', _) if characters.peek() == Some(&'\n') => {}
            (space, _) if space.is_whitespace() => names.push(String::new()),
            (other, Some(name)) => name.push(other),
            (_, None) => {}
        }
    }
    let own = |name: &String| name.contains("/bin/..//include/");
    names.into_iter().filter(|name| !name.is_empty() && !own(name)).map(PathBuf::from).collect()
}

/// A command as it can be pasted into a shell.
fn shell_line(command: &Command) -> String {
    let quote = |word: &OsStr| {
        let word = word.to_string_lossy();
        let plain = |character: char| character.is_ascii_alphanumeric() || "-_=+./,:".contains(character);
        if !word.is_empty() && word.chars().all(plain) {
            return word.into_owned();
        }
        format!("'{}'", word.replace('\'', r"'\''"))
    };
    let words: Vec<String> =
        [command.get_program()].into_iter().chain(command.get_args()).map(quote).collect();
    words.join(" ")
}

impl fmt::Display for CompileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "nvcc cannot compile {}:\n{}\nthe command: {}",
            self.source.display(),
            self.message.trim_end(),
            self.command
        )
    }
}

impl std::error::Error for CompileError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_of_make_are_read() {
        let text = "out/a b.ptx : one.cu \\\n    /x/bin/..//include/cuda_fp16.h \\\n    two\\ words.h \\\n    sub/three.h\n";
        let files: Vec<PathBuf> = ["one.cu", "two words.h", "sub/three.h"].map(PathBuf::from).into();
        assert_eq!(parse_dependencies(text), files);
        assert_eq!(parse_dependencies(""), Vec::<PathBuf>::new());
    }

    #[test]
    fn a_command_can_be_pasted() {
        let mut command = Command::new("/a b/nvcc");
        command.args(["-D", "NAME=\"it's\"", "-arch=compute_75"]);
        assert_eq!(shell_line(&command), r#"'/a b/nvcc' -D 'NAME="it'\''s"' -arch=compute_75"#);
    }
}
