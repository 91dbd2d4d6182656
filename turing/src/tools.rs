//! NVIDIA's `cuobjdump` and `nvdisasm`, which scripts/install-nvcc puts beside nvcc.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The two programs.
#[derive(Debug, Clone)]
pub struct Disassembler {
    cuobjdump: PathBuf,
    nvdisasm: PathBuf,
}

impl Disassembler {
    /// Looks in `bin` of `CUDA_HOME` and `CUDA_PATH`, in the `.cuda` of the working folder, of the program's folder and of those
    /// above them, on `PATH`, and in /usr/local/cuda.
    pub fn find() -> Result<Disassembler, String> {
        let mut folders: Vec<PathBuf> = Vec::new();
        for name in ["CUDA_HOME", "CUDA_PATH"] {
            folders.extend(std::env::var_os(name).map(|folder| PathBuf::from(folder).join("bin")));
        }
        let starts = [std::env::current_dir().ok(), std::env::current_exe().ok()];
        for start in starts.iter().flatten() {
            folders.extend(start.ancestors().map(|folder| folder.join(".cuda/nvidia/cu13/bin")));
        }
        folders.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
        folders.push(PathBuf::from("/usr/local/cuda/bin"));
        let find = |name: &str| {
            folders.iter().map(|folder| folder.join(name)).find(|path| path.is_file()).ok_or_else(|| {
                format!(
                    "there is no {name}, which reads machine code: run scripts/install-nvcc, which gets it"
                )
            })
        };
        Ok(Disassembler { cuobjdump: find("cuobjdump")?, nvdisasm: find("nvdisasm")? })
    }

    /// The machine code for sm_75 in a fatbin, as text. `scratch` is a folder for files on the way.
    pub fn disassemble(&self, name: &str, fatbin: &[u8], scratch: &Path) -> Result<String, String> {
        let folder = scratch.join(name);
        let file = folder.join(format!("{name}.fatbin"));
        std::fs::create_dir_all(&folder)
            .and_then(|()| std::fs::write(&file, fatbin))
            .map_err(|error| format!("{}: cannot write: {error}", file.display()))?;
        self.run(Command::new(&self.cuobjdump).args(["-xelf", "sm_75"]).arg(&file).current_dir(&folder))?;
        let cubin = std::fs::read_dir(&folder)
            .map_err(|error| format!("{}: cannot read: {error}", folder.display()))?
            .flatten()
            .map(|entry| entry.path())
            .find(|path| path.extension().is_some_and(|extension| extension == "cubin"))
            .ok_or_else(|| format!("{name} holds no machine code for sm_75"))?;
        self.run(Command::new(&self.nvdisasm).args(["-c", "-hex", "-gi"]).arg(&cubin))
    }

    fn run(&self, command: &mut Command) -> Result<String, String> {
        let program = command.get_program().to_string_lossy().into_owned();
        let output = command.output().map_err(|error| format!("cannot run {program}: {error}"))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_string();
            return Err(format!("{program} ended with {}: {said}", output.status));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}
