//! The table in `tests/data/before-after.toml`: what kernels before and after user memory asks for coherent DMA make of
//! the same programs, on coherent and on bounced DMA. The table as it came out is printed at the end.
//!
//! Images (built at first use): linux-6.12-debug and linux-7.2-debug.

mod common;

use common::images;
use common::path;
use common::rdma::{self, Outcome};
use guest_images::Image;
use libtest_mimic::{Arguments, Failed, Trial};
use serde::Deserialize;
use std::process::ExitCode;
use std::sync::Mutex;

const TABLE: &str = include_str!("data/before-after.toml");

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    condition: Vec<Condition>,
    column: Vec<Column>,
    cell: Vec<Cell>,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Condition {
    name: String,
    /// Appended to the kernel command line.
    cmdline: String,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Column {
    name: String,
    script: String,
    /// `--device`, the mlx5 function with a key or two.
    #[serde(default = "mlx5")]
    device: String,
    /// Whether the guest is given kverbs.
    #[serde(default)]
    module: bool,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Cell {
    image: String,
    condition: String,
    column: String,
    outcome: String,
    status: i32,
    says: Vec<String>,
    errors: u64,
    messages: Vec<String>,
}

fn mlx5() -> String {
    "mlx5".to_owned()
}

/// Row, column and outcome of the cells that were run.
static RESULTS: Mutex<Vec<(String, String, String)>> = Mutex::new(Vec::new());

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let table: Table = toml::from_str(TABLE).expect("the table parses");
    let mut trials = vec![Trial::test("the_table_is_whole", || whole(&toml::from_str(TABLE)?))];
    trials.extend(table.cell.iter().map(|cell| trial(&table, cell)));
    let conclusion = libtest_mimic::run(&arguments, trials);
    print(&table);
    conclusion.exit_code()
}

/// Every kernel has a cell for every condition and column, and no more.
fn whole(table: &Table) -> Result<(), Failed> {
    for image in images_of(table) {
        for condition in &table.condition {
            for column in &table.column {
                let is_it = |cell: &&Cell| {
                    (&*cell.image, &cell.condition, &cell.column) == (image, &condition.name, &column.name)
                };
                let count = table.cell.iter().filter(is_it).count();
                if count != 1 {
                    return Err(
                        format!("{count} cells for {image}, {}, {}", condition.name, column.name).into()
                    );
                }
            }
        }
    }
    let cells = images_of(table).len() * table.condition.len() * table.column.len();
    if table.cell.len() != cells {
        return Err("a cell is of no known condition or column".into());
    }
    Ok(())
}

fn images_of(table: &Table) -> Vec<&str> {
    let mut images: Vec<&str> = table.cell.iter().map(|cell| &*cell.image).collect();
    images.dedup();
    images
}

fn trial(table: &Table, cell: &Cell) -> Trial {
    let condition =
        table.condition.iter().find(|it| it.name == cell.condition).expect("a known condition").clone();
    let column = table.column.iter().find(|it| it.name == cell.column).expect("a known column").clone();
    let cell = cell.clone();
    let name = format!("{}::{}::{}", cell.image, cell.condition, cell.column.replace(' ', "_"));
    let image: &'static str = cell.image.clone().leak();
    images::trial(
        name,
        image,
        |_| {},
        move |image| {
            let result = judge(&cell, &run(image, &condition, &column)?);
            let text = match &result {
                Ok(()) => cell.outcome.clone(),
                Err(_) => format!("NOT AS EXPECTED ({})", cell.outcome),
            };
            RESULTS.lock().unwrap().push((row(&cell.image, &cell.condition), cell.column, text));
            result
        },
    )
}

fn run(image: &Image, condition: &Condition, column: &Column) -> Result<Outcome, Failed> {
    let module = if column.module { Some(rdma::kverbs(image)?) } else { None };
    let mut options = vec!["--device", &*column.device];
    options.extend(module.iter().flat_map(|module| ["--file", path(module)]));
    rdma::in_guest(image, &condition.cmdline, &options, &column.script)
}

fn judge(cell: &Cell, outcome: &Outcome) -> Result<(), Failed> {
    let messages = dma_debug_messages(&outcome.log);
    let as_stated = messages.len() == cell.messages.len()
        && messages.iter().zip(&cell.messages).all(|(message, stated)| message.starts_with(stated));
    let missing: Vec<_> = cell.says.iter().filter(|line| !outcome.output.contains(*line)).collect();
    if outcome.status != cell.status
        || outcome.error_count != Some(cell.errors)
        || !as_stated
        || !missing.is_empty()
    {
        return Err(format!(
            "exit status {} ({}), error_count {:?} ({}), messages {messages:?}, output lacks {missing:?}:\n{}",
            outcome.status, cell.status, outcome.error_count, cell.errors, outcome.output
        )
        .into());
    }
    Ok(())
}

/// What dma-debug warned of: `DMA-API: [DRIVER DEVICE: ]MESSAGE` on a line of level warning or worse, without its other
/// lines (where a mapping was made).
fn dma_debug_messages(log: &str) -> Vec<&str> {
    let warnings =
        log.lines().filter(|line| ["<0>", "<1>", "<2>", "<3>", "<4>"].iter().any(|it| line.starts_with(it)));
    warnings
        .filter_map(|line| line.split_once("DMA-API: ").map(|(_, message)| message))
        .filter(|message| !message.starts_with("Mapped at:"))
        .map(|message| message.strip_prefix("mlx5_core 0000:08:00.0: ").unwrap_or(message))
        .collect()
}

fn row(image: &str, condition: &str) -> String {
    format!("{image}, {condition}")
}

fn print(table: &Table) {
    let results = RESULTS.lock().unwrap();
    for image in images_of(table) {
        for condition in &table.condition {
            let row = row(image, &condition.name);
            for column in &table.column {
                if let Some((.., text)) = results.iter().find(|it| it.0 == row && it.1 == column.name) {
                    println!("{row:27} {:20} {text}", column.name);
                }
            }
        }
    }
}
