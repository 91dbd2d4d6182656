//! Compiles with a real nvcc. Without one these tests fail, and say how to get it.

use nvcc::{Options, Toolkit};
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

fn toolkit() -> Toolkit {
    Toolkit::find().unwrap_or_else(|missing| panic!("this test needs nvcc: {missing}"))
}

/// A folder with a source that includes a header, and room for outputs.
struct Sources {
    folder: TempDir,
}

impl Sources {
    fn new() -> Sources {
        let sources = Sources { folder: tempfile::tempdir().unwrap() };
        fs::create_dir(sources.path("include")).unwrap();
        sources.write("include/factor.h", "#define FACTOR 3.0f\n");
        let kernel = "x[threadIdx.x] *= FACTOR * EXTRA;";
        sources.write("scale it.cu", &format!("#include <cuda_fp16.h>\n#include \"factor.h\"\nextern \"C\" __global__ void scale(float *x) {{\n    {kernel}\n}}\n"));
        sources
    }
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }
    fn source(&self) -> PathBuf {
        self.path("scale it.cu")
    }
    fn options(&self) -> Options {
        Options::new(&self.path("out")).include(&self.path("include")).define("EXTRA", "7.0f")
    }
}

/// Whether a call made the file anew: nvcc gives it a new time, and a call that is spared leaves it.
fn makes(output: &Path, compile: impl FnOnce()) -> bool {
    let old = std::time::SystemTime::UNIX_EPOCH;
    fs::File::options().write(true).open(output).unwrap().set_modified(old).unwrap();
    compile();
    fs::metadata(output).unwrap().modified().unwrap() != old
}

#[test]
fn ptx_is_for_turing_and_names_lines() {
    let sources = Sources::new();
    let ptx = toolkit().compile_ptx(&sources.source(), &sources.options()).unwrap();
    assert_eq!(ptx, sources.path("out/scale it.ptx"));
    let text = fs::read_to_string(ptx).unwrap();
    assert!(
        text.contains(".target sm_75") && text.contains(".entry scale") && text.contains(".loc"),
        "{text}"
    );
    assert!(text.contains("0f41A80000"), "3 * 7 is 21: {text}");
}

#[test]
fn nvcc_is_called_when_something_has_changed_and_else_not() {
    let (toolkit, sources) = (toolkit(), Sources::new());
    let compile = |options: &Options| {
        toolkit.compile_ptx(&sources.source(), options).unwrap();
    };
    let ptx = toolkit.compile_ptx(&sources.source(), &sources.options()).unwrap();
    assert!(!makes(&ptx, || compile(&sources.options())), "nothing has changed");

    let text = fs::read_to_string(sources.source()).unwrap();
    sources.write("scale it.cu", &text);
    assert!(!makes(&ptx, || compile(&sources.options())), "a file was written again as it was");
    sources.write("scale it.cu", &text.replace("*=", "+="));
    assert!(makes(&ptx, || compile(&sources.options())), "the source has changed");
    sources.write("include/factor.h", "#define FACTOR 4.0f\n");
    assert!(makes(&ptx, || compile(&sources.options())), "a header has changed");
    assert!(makes(&ptx, || compile(&sources.options().flag("--use_fast_math"))), "a flag has changed");
    assert!(makes(&ptx, || compile(&sources.options())), "and has changed back");

    fs::remove_file(&ptx).unwrap();
    compile(&sources.options());
    assert!(ptx.is_file(), "the output is gone");
    assert!(!makes(&ptx, || compile(&sources.options())), "nothing has changed");
}

#[test]
fn an_error_names_file_and_line_and_the_command() {
    let sources = Sources::new();
    let text = fs::read_to_string(sources.source()).unwrap();
    sources.write("scale it.cu", &text.replace("EXTRA;", "EXTRA"));
    for _ in 0..2 {
        // The second time too: a failure is nothing to remember as done.
        let error = toolkit().compile_ptx(&sources.source(), &sources.options()).unwrap_err();
        assert!(error.message.contains("scale it.cu(5): error: expected a \";\""), "{error}");
        assert!(
            error.command.contains("-arch=compute_75") && error.command.contains("EXTRA=7.0f"),
            "{error}"
        );
        let shown = error.to_string();
        assert!(shown.contains(error.message.trim_end()) && shown.contains(&error.command), "{error}");
    }
}

#[test]
fn an_output_does_not_outlive_its_source() {
    let (toolkit, sources) = (toolkit(), Sources::new());
    let ptx = toolkit.compile_ptx(&sources.source(), &sources.options()).unwrap();
    let text = fs::read_to_string(sources.source()).unwrap();
    sources.write("scale it.cu", "nonsense");
    toolkit.compile_ptx(&sources.source(), &sources.options()).unwrap_err();
    // Back to what it was: the stamp went with the failure, so this compiles.
    sources.write("scale it.cu", &text);
    toolkit.compile_ptx(&sources.source(), &sources.options()).unwrap();
    assert!(fs::read_to_string(ptx).unwrap().contains(".entry scale"));
}

#[test]
fn a_source_that_is_not_there_is_an_error() {
    let sources = Sources::new();
    let error = toolkit().compile_ptx(&sources.path("absent.cu"), &sources.options()).unwrap_err();
    assert!(error.to_string().contains("absent.cu"), "{error}");
}

#[test]
fn a_fatbin_tells_what_each_card_needs() {
    let (toolkit, sources) = (toolkit(), Sources::new());
    let fatbin = toolkit.compile_fatbin(&sources.source(), &sources.options()).unwrap();
    assert_eq!(fatbin.path, sources.path("out/scale it.fatbin"));
    assert!(fs::metadata(&fatbin.path).unwrap().len() > 1000);
    for card in [75, 80, 86, 89, 90] {
        assert!(fatbin.resources.contains(&format!("'scale' for 'sm_{card}'")), "{}", fatbin.resources);
    }
    assert_eq!(fatbin.resources.matches("0 bytes spill stores").count(), 5, "{}", fatbin.resources);
    // The same text when nvcc is not called.
    let mut again = None;
    assert!(
        !makes(&fatbin.path, || again = toolkit.compile_fatbin(&sources.source(), &sources.options()).ok())
    );
    assert_eq!(again, Some(fatbin));
}
