//! A boot in which a list of programs runs, one after the other, each judged by what it printed and how it ended.

use crate::common::{images, kernel_log, rdma};
use guest_images::Image;
use libtest_mimic::{Failed, Trial};
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

/// Programs that poll want a vCPU each.
pub const OPTIONS: [&str; 4] = ["--device", "mlx5", "--cpus", "2"];
/// Seconds of the guest's time after which a program hangs.
const GUEST_PATIENCE: u32 = 300;
/// Begins the lines that part the programs' outputs.
const MARK: &str = "=#=";

/// What a program did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    pub output: String,
    pub status: i32,
    /// dma-debug's count of errors after it; none in kernels without.
    pub dma_errors: Option<u32>,
}

pub type Judge = fn(&Section) -> Result<(), Failed>;

/// A program, or several that belong together, as a shell script.
#[derive(Debug, Clone)]
pub struct Program {
    pub name: String,
    pub script: String,
    pub judge: Judge,
}

/// A boot of `image` that runs `programs`, at most once in a run of the tests.
#[derive(Debug)]
pub struct Boot {
    image: &'static str,
    name: &'static str,
    programs: Vec<Program>,
    /// What the kernel may complain of, because the programs give it reason to.
    provoked: &'static [&'static str],
    outcome: OnceLock<Result<Outcome, String>>,
}

#[derive(Debug)]
struct Outcome {
    sections: BTreeMap<String, Section>,
    /// Lines of the kernel's log that nothing allows.
    unexpected: Vec<String>,
}

impl Boot {
    pub fn new(
        image: &'static str,
        name: &'static str,
        programs: Vec<Program>,
        provoked: &'static [&'static str],
    ) -> Self {
        Self { image, name, programs, provoked, outcome: OnceLock::new() }
    }

    /// The boot itself, and that the kernel has nothing to complain of.
    pub fn trial(boot: &Arc<Self>) -> Trial {
        let name = format!("{}::{}", boot.image, boot.name);
        Self::trial_of(boot, name, |outcome| match outcome.unexpected.as_slice() {
            [] => Ok(()),
            lines => Err(lines.join("\n").into()),
        })
    }

    /// One test a program.
    pub fn program_trials(boot: &Arc<Self>) -> Vec<Trial> {
        let trial = |program: &Program| {
            let program = program.clone();
            let name = format!("{}::{}", boot.image, program.name);
            Self::trial_of(boot, name, move |outcome| judge(&program, &outcome.sections))
        };
        boot.programs.iter().map(trial).collect()
    }

    fn trial_of(
        boot: &Arc<Self>,
        name: String,
        test: impl FnOnce(&Outcome) -> Result<(), Failed> + Send + 'static,
    ) -> Trial {
        let boot = Arc::clone(boot);
        images::trial(
            name,
            boot.image,
            |_| {},
            move |image| match boot.outcome.get_or_init(|| boot.run(image)) {
                Ok(outcome) => test(outcome),
                Err(reason) => Err(reason.into()),
            },
        )
    }

    fn run(&self, image: &Image) -> Result<Outcome, String> {
        let outcome = rdma::in_guest(image, "", &OPTIONS, &script(&self.programs))
            .map_err(|failed| failed.message().unwrap_or_default().to_owned())?;
        let mut unexpected = kernel_log::judge(&outcome.log, &outcome.release).unexpected;
        unexpected.retain(|line| !self.provoked.iter().any(|text| line.contains(text)));
        Ok(Outcome { sections: sections(&outcome.output), unexpected })
    }
}

/// Runs the programs, which want the loopback interface, each followed by lines with its status and dma-debug's count.
fn script(programs: &[Program]) -> String {
    let mut text = "ip link set lo up\n".to_owned();
    for Program { name, script, .. } in programs {
        text += &format!(
            "echo '{MARK} program {name}'\n\
             timeout -s KILL {GUEST_PATIENCE} sh -c '{script}' > /tmp/output 2>&1; status=$?\n\
             cat /tmp/output; echo; echo '{MARK} status' $status\n\
             echo '{MARK} errors' $(cat /sys/kernel/debug/dma-api/error_count 2> /dev/null)\n"
        );
    }
    text
}

/// Takes what [`script`] makes the guest print apart.
fn sections(output: &str) -> BTreeMap<String, Section> {
    let mut sections = BTreeMap::new();
    for part in output.split(&format!("{MARK} program ")).skip(1) {
        let (name, rest) = part.split_once('\n').unwrap_or((part, ""));
        let marked = |kind: &str| {
            rest.lines().find_map(|line| line.strip_prefix(MARK)?.trim_start().strip_prefix(kind))
        };
        let Some(status) = marked("status").and_then(|status| status.trim().parse().ok()) else {
            continue;
        };
        let output = rest.lines().take_while(|line| !line.starts_with(MARK)).collect::<Vec<_>>().join("\n");
        let dma_errors = marked("errors").and_then(|errors| errors.trim().parse().ok());
        sections.insert(name.to_owned(), Section { output, status, dma_errors });
    }
    sections
}

fn judge(program: &Program, sections: &BTreeMap<String, Section>) -> Result<(), Failed> {
    let section = sections.get(&program.name).ok_or("the program never ended")?;
    if section.status != 0 {
        return Err(format!("exit status {}\n{}", section.status, section.output).into());
    }
    if let Some(errors) = section.dma_errors.filter(|errors| *errors != 0) {
        return Err(format!("dma-debug's error_count is {errors}\n{}", section.output).into());
    }
    (program.judge)(section)
}

pub fn cuts_a_log_into_sections() {
    let output = "noise\n=#= program a b\none\ntwo\n\n=#= status 3\n=#= errors 1\n\
                  =#= program c\n\n=#= status 0\n=#= errors\n=#= program hangs\nthree\n";
    let sections = sections(output);
    let expected =
        |output: &str, status, dma_errors| Section { output: output.to_owned(), status, dma_errors };
    assert_eq!(sections.len(), 2);
    assert_eq!(sections["a b"], expected("one\ntwo\n", 3, Some(1)));
    assert_eq!(sections["c"], expected("", 0, None));

    let program = |name: &str| Program { name: name.into(), script: String::new(), judge: |_| Ok(()) };
    assert!(judge(&program("a b"), &sections).is_err(), "status 3");
    assert!(judge(&program("c"), &sections).is_ok());
    assert!(judge(&program("hangs"), &sections).is_err());
}
