//! Where nvcc is.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The oldest release that is used: the first that knows every card that [`Toolkit::compile_fatbin`] compiles for.
/// `scripts/install-nvcc` installs 13.0, which is what the tests run with.
pub const MINIMUM: (u32, u32) = (11, 8);

/// The script that installs nvcc, relative to the project's root.
const SCRIPT: &str = "scripts/install-nvcc";

/// A compiler that was found and that starts.
#[derive(Debug, Clone)]
pub struct Toolkit {
    pub(crate) nvcc: PathBuf,
    pub(crate) version: Version,
    pub(crate) watched: Watched,
}

/// What `nvcc --version` says: `release 13.0, V13.0.88` is 13.0.88.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    pub major: u32,
    pub minor: u32,
    pub patch: u32,
}

/// Why there is no compiler. `Display` is one line that says what to do.
#[derive(Debug, Clone)]
pub struct NotFound {
    reason: Reason,
    watched: Watched,
}

#[derive(Debug, Clone)]
enum Reason {
    /// No place has one.
    Nowhere,
    /// A variable names a folder without one. That is an error and nothing to skip: it is not what was wanted.
    NotInVariable { variable: &'static str, folder: PathBuf },
    /// `scripts/install-nvcc` was stopped in the middle.
    Unfinished { folder: PathBuf },
    /// The first that was found does not start.
    Broken { nvcc: PathBuf, message: String },
    /// The first that was found is older than [`MINIMUM`].
    TooOld { nvcc: PathBuf, version: Version },
}

/// What the result of a search depends on, for cargo.
#[derive(Debug, Clone, Default)]
pub(crate) struct Watched {
    variables: Vec<&'static str>,
    files: Vec<PathBuf>,
}

/// Variables that nvcc itself reads.
pub(crate) const READ_BY_NVCC: [&str; 3] = ["NVCC_PREPEND_FLAGS", "NVCC_APPEND_FLAGS", "NVCC_CCBIN"];

impl Toolkit {
    /// The first nvcc of, in this order:
    ///
    /// 1. `CUDA_HOME`, then `CUDA_PATH`: a variable that is set to a folder without `bin/nvcc` is an error
    /// 2. the project's `.cuda` folder, which `scripts/install-nvcc` makes
    /// 3. NVIDIA's packages in a virtual environment: that of `VIRTUAL_ENV`, or the project's `.venv` or `venv`
    /// 4. `PATH`
    /// 5. `/usr/local/cuda`
    ///
    /// The project is the folder of `CARGO_MANIFEST_DIR`, or of the call, and those above it up to the one with
    /// `Cargo.lock` or `.git`.
    pub fn find() -> Result<Toolkit, NotFound> {
        let start = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
        let start = start.or_else(|| std::env::current_dir().ok()).unwrap_or_default();
        find(
            &|name| std::env::var_os(name).filter(|value| !value.is_empty()),
            &start,
            Path::new("/usr/local/cuda"),
        )
    }

    /// The compiler's path.
    pub fn nvcc(&self) -> &Path {
        &self.nvcc
    }

    pub fn version(&self) -> Version {
        self.version
    }

    /// Prints for cargo when a build script that has compiled `outputs` is to run again: when a source or a header of
    /// them changes, or the compiler, or a variable that the search for it or the compiler has looked at. Warnings that
    /// nvcc had for them become cargo's.
    pub fn tell_cargo(&self, outputs: &[impl AsRef<Path>]) {
        self.watched.tell_cargo();
        println!("cargo:rerun-if-changed={}", self.nvcc.display());
        for variable in READ_BY_NVCC {
            println!("cargo:rerun-if-env-changed={variable}");
        }
        for output in outputs {
            for file in crate::compile::dependencies(output.as_ref()) {
                println!("cargo:rerun-if-changed={}", file.display());
            }
            for warning in crate::compile::warnings(output.as_ref()) {
                println!("cargo:warning={warning}");
            }
        }
    }

    fn new(nvcc: PathBuf, watched: &Watched) -> Result<Toolkit, NotFound> {
        let broken = |message: String| {
            Err(NotFound { reason: Reason::Broken { nvcc: nvcc.clone(), message }, watched: watched.clone() })
        };
        let output = match Command::new(&nvcc).arg("--version").output() {
            Ok(output) => output,
            Err(error) => return broken(error.to_string()),
        };
        let text = String::from_utf8_lossy(&output.stdout);
        let Some(version) = Version::parse(&text).filter(|_| output.status.success()) else {
            let error = String::from_utf8_lossy(&output.stderr);
            let said =
                error.lines().chain(text.lines()).find(|line| !line.trim().is_empty()).unwrap_or("nothing");
            return broken(format!("`--version` ended with {} and said: {said}", output.status));
        };
        if (version.major, version.minor) < MINIMUM {
            return Err(NotFound { reason: Reason::TooOld { nvcc, version }, watched: watched.clone() });
        }
        Ok(Toolkit { nvcc, version, watched: watched.clone() })
    }
}

/// [`Toolkit::find`], with everything that it takes from its surroundings as parameters.
fn find(
    variable: &dyn Fn(&str) -> Option<OsString>,
    start: &Path,
    system: &Path,
) -> Result<Toolkit, NotFound> {
    let mut watched = Watched::default();
    let project = project(start);
    // The script's time changes when it has installed something: that is how a build without nvcc notices.
    watched.files.extend(project.iter().map(|folder| folder.join(SCRIPT)).filter(|script| script.is_file()));

    for name in ["CUDA_HOME", "CUDA_PATH"] {
        watched.variables.push(name);
        if let Some(folder) = variable(name).map(PathBuf::from) {
            return match executable(&folder.join("bin")) {
                Some(nvcc) => Toolkit::new(nvcc, &watched),
                None => Err(NotFound { reason: Reason::NotInVariable { variable: name, folder }, watched }),
            };
        }
    }
    let mut own = project.iter().map(|folder| folder.join(".cuda"));
    if let Some(folder) = own.find(|folder| folder.join("nvidia").is_dir()) {
        let nvcc = executable(&folder.join("nvidia/cu13/bin"));
        // The script writes that file when all the rest is done.
        return match nvcc.filter(|_| folder.join("requirements.txt").is_file()) {
            Some(nvcc) => Toolkit::new(nvcc, &watched),
            None => Err(NotFound { reason: Reason::Unfinished { folder }, watched }),
        };
    }
    watched.variables.push("VIRTUAL_ENV");
    let environments = project.iter().flat_map(|folder| [folder.join(".venv"), folder.join("venv")]);
    let environments = variable("VIRTUAL_ENV").map(PathBuf::from).into_iter().chain(environments);
    if let Some(nvcc) = environments.into_iter().find_map(|folder| in_virtual_environment(&folder)) {
        return Toolkit::new(nvcc, &watched);
    }
    watched.variables.push("PATH");
    let path = variable("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain([system.join("bin")]);
    if let Some(nvcc) = folders.into_iter().find_map(|folder| executable(&folder)) {
        return Toolkit::new(nvcc, &watched);
    }
    Err(NotFound { reason: Reason::Nowhere, watched })
}

/// The folder and those above it, up to the project's root. Not further: what lies there is somebody else's.
fn project(start: &Path) -> Vec<PathBuf> {
    let mut folders = Vec::new();
    for folder in start.ancestors() {
        folders.push(folder.to_path_buf());
        if folder.join("Cargo.lock").is_file() || folder.join(".git").exists() {
            return folders;
        }
    }
    folders.truncate(1);
    folders
}

fn executable(folder: &Path) -> Option<PathBuf> {
    let nvcc = folder.join(if cfg!(windows) { "nvcc.exe" } else { "nvcc" });
    nvcc.is_file().then_some(nvcc)
}

/// `lib/python3.11/site-packages/nvidia/cu13/bin/nvcc`, with whatever version of Python.
fn in_virtual_environment(folder: &Path) -> Option<PathBuf> {
    let mut pythons: Vec<_> =
        fs::read_dir(folder.join("lib")).ok()?.flatten().map(|entry| entry.path()).collect();
    pythons.sort();
    let is_python = |path: &&PathBuf| path.file_name().is_some_and(|name| starts_with(name, "python"));
    pythons
        .iter()
        .filter(is_python)
        .find_map(|python| executable(&python.join("site-packages/nvidia/cu13/bin")))
}

fn starts_with(name: &OsStr, prefix: &str) -> bool {
    name.to_str().is_some_and(|name| name.starts_with(prefix))
}

impl Watched {
    fn tell_cargo(&self) {
        for variable in &self.variables {
            println!("cargo:rerun-if-env-changed={variable}");
        }
        for file in &self.files {
            println!("cargo:rerun-if-changed={}", file.display());
        }
    }
}

impl NotFound {
    /// Prints for cargo when a build script that has found no nvcc is to run again: when one of the variables that the
    /// search looked at changes, or after `scripts/install-nvcc`.
    pub fn tell_cargo(&self) {
        self.watched.tell_cargo();
        let file = match &self.reason {
            Reason::Broken { nvcc, .. } | Reason::TooOld { nvcc, .. } => nvcc,
            Reason::Nowhere | Reason::NotInVariable { .. } | Reason::Unfinished { .. } => return,
        };
        println!("cargo:rerun-if-changed={}", file.display());
    }
}

impl Version {
    fn parse(text: &str) -> Option<Version> {
        let (_, rest) = text.split_once(", V")?;
        let mut numbers = rest.split_whitespace().next()?.split('.').map(|number| number.parse().ok());
        Some(Version { major: numbers.next()??, minor: numbers.next()??, patch: numbers.next()?? })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

impl fmt::Display for NotFound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.reason {
            Reason::Nowhere => write!(
                f,
                "there is no nvcc, the CUDA compiler: run {SCRIPT}, which needs no GPU, or set CUDA_HOME to a toolkit"
            ),
            Reason::NotInVariable { variable, folder } => write!(
                f,
                "{variable} is {}, which holds no bin/nvcc: point it to a CUDA toolkit, or unset it and run {SCRIPT}",
                folder.display()
            ),
            Reason::Unfinished { folder } => {
                write!(f, "{} holds an unfinished install of nvcc: run {SCRIPT} again", folder.display())
            }
            Reason::Broken { nvcc, message } => {
                write!(
                    f,
                    "{} does not work ({message}): run {SCRIPT}, or set CUDA_HOME to a toolkit",
                    nvcc.display()
                )
            }
            Reason::TooOld { nvcc, version } => write!(
                f,
                "{} is version {version}, and {}.{} or newer is needed: run {SCRIPT}, or set CUDA_HOME to a newer toolkit",
                nvcc.display(),
                MINIMUM.0,
                MINIMUM.1
            ),
        }
    }
}

impl std::error::Error for NotFound {}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use std::os::unix::fs::PermissionsExt;
    use std::sync::{Mutex, MutexGuard, PoisonError};
    use tempfile::TempDir;

    /// One test at a time: a file that one writes is inherited by what another starts just then, and cannot be started.
    static ALONE: Mutex<()> = Mutex::new(());

    /// A project with a package in it, and whatever else a test puts there.
    struct Place {
        folder: TempDir,
        variables: HashMap<&'static str, OsString>,
        _alone: MutexGuard<'static, ()>,
    }

    impl Place {
        fn new() -> Place {
            let folder = tempfile::tempdir().unwrap();
            fs::create_dir_all(folder.path().join("project/package")).unwrap();
            fs::write(folder.path().join("project/Cargo.lock"), "").unwrap();
            let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
            Place { folder, variables: HashMap::new(), _alone: alone }
        }
        fn path(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }
        fn set(&mut self, name: &'static str, folder: &str) {
            self.variables.insert(name, self.path(folder).into());
        }
        /// A file that says it is nvcc 13.0.88.
        fn put(&self, path: &str) {
            self.put_saying(path, "echo 'Cuda compilation tools, release 13.0, V13.0.88'");
        }
        fn put_saying(&self, path: &str, script: &str) {
            let path = self.path(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        fn find(&self) -> Result<Toolkit, NotFound> {
            find(
                &|name| self.variables.get(name).cloned(),
                &self.path("project/package"),
                &self.path("system"),
            )
        }
        #[track_caller]
        fn finds(&self, path: &str) {
            let toolkit = self.find().unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(toolkit.nvcc(), self.path(path));
            assert_eq!(toolkit.version(), Version { major: 13, minor: 0, patch: 88 });
        }
        #[track_caller]
        fn fails(&self, message: &str) {
            let error = self.find().expect_err("there is nothing to find").to_string();
            assert_eq!(error.lines().count(), 1, "{error}");
            assert!(error.contains("scripts/install-nvcc"), "{error}");
            assert!(error.contains(message), "{error}");
        }
    }

    #[test]
    fn the_order_is_that_of_the_documentation() {
        // Each place is put before those that are there already.
        let mut place = Place::new();
        place.set("PATH", "bin");
        place.fails("there is no nvcc");
        place.put("system/bin/nvcc");
        place.finds("system/bin/nvcc");
        place.put("bin/nvcc");
        place.finds("bin/nvcc");
        place.put("project/venv/lib/python3.9/site-packages/nvidia/cu13/bin/nvcc");
        place.finds("project/venv/lib/python3.9/site-packages/nvidia/cu13/bin/nvcc");
        place.put("project/.venv/lib/python3.12/site-packages/nvidia/cu13/bin/nvcc");
        place.finds("project/.venv/lib/python3.12/site-packages/nvidia/cu13/bin/nvcc");
        place.put("environment/lib/python3.11/site-packages/nvidia/cu13/bin/nvcc");
        place.finds("project/.venv/lib/python3.12/site-packages/nvidia/cu13/bin/nvcc");
        place.set("VIRTUAL_ENV", "environment");
        place.finds("environment/lib/python3.11/site-packages/nvidia/cu13/bin/nvcc");
        place.put("project/.cuda/nvidia/cu13/bin/nvcc");
        place.fails("unfinished");
        fs::write(place.path("project/.cuda/requirements.txt"), "").unwrap();
        place.finds("project/.cuda/nvidia/cu13/bin/nvcc");
        place.put("path/bin/nvcc");
        place.set("CUDA_PATH", "path");
        place.finds("path/bin/nvcc");
        place.put("home/bin/nvcc");
        place.set("CUDA_HOME", "home");
        place.finds("home/bin/nvcc");
    }

    #[test]
    fn a_variable_without_nvcc_is_an_error() {
        let mut place = Place::new();
        place.put("system/bin/nvcc");
        place.set("CUDA_HOME", "home");
        place.fails("CUDA_HOME is ");
        place.variables.clear();
        place.set("CUDA_PATH", "path");
        place.fails("CUDA_PATH is ");
    }

    #[test]
    fn what_lies_above_the_project_is_left_alone() {
        let place = Place::new();
        place.put(".cuda/nvidia/cu13/bin/nvcc");
        place.put(".venv/lib/python3.11/site-packages/nvidia/cu13/bin/nvcc");
        place.fails("there is no nvcc");
    }

    #[test]
    fn a_folder_that_only_holds_the_lock_is_no_install() {
        let place = Place::new();
        fs::create_dir_all(place.path("project/.cuda")).unwrap();
        place.fails("there is no nvcc");
    }

    #[test]
    fn what_does_not_start_is_an_error() {
        let place = Place::new();
        place.put_saying("system/bin/nvcc", "echo 'no such library' >&2; exit 127");
        place.fails("no such library");
        place.put_saying("system/bin/nvcc", "echo hello");
        place.fails("hello");
        fs::set_permissions(place.path("system/bin/nvcc"), fs::Permissions::from_mode(0o644)).unwrap();
        place.fails("does not work");
    }

    #[test]
    fn an_old_one_is_an_error() {
        let place = Place::new();
        place.put_saying("system/bin/nvcc", "echo 'Cuda compilation tools, release 11.7, V11.7.99'");
        place.fails("11.7.99");
        place.put_saying("system/bin/nvcc", "echo 'Cuda compilation tools, release 11.8, V11.8.89'");
        assert_eq!(place.find().unwrap().version().to_string(), "11.8.89");
    }

    #[test]
    fn an_install_changes_a_file_that_a_build_without_nvcc_watches() {
        let place = Place::new();
        place.put("project/scripts/install-nvcc");
        assert_eq!(place.find().unwrap_err().watched.files, [place.path("project/scripts/install-nvcc")]);
        assert_eq!(
            place.find().unwrap_err().watched.variables,
            ["CUDA_HOME", "CUDA_PATH", "VIRTUAL_ENV", "PATH"]
        );
    }
}
