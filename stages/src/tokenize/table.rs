//! Rows out of TSV, CSV, JSONL and Parquet files, one reader for each, all with the place of every row.

use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use parquet::schema::types::Type;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::glue::Columns;
use crate::params::nearest;

/// A file's format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Format {
    /// Columns between tabs; quotation marks are ordinary characters.
    Tsv,
    /// Columns between commas, quoted by RFC 4180.
    Csv,
    /// One JSON object a line.
    Jsonl,
    /// Apache Parquet.
    Parquet,
}

/// The longest line that is read, in bytes.
const MAX_LINE: usize = 16 << 20;

/// A row's wanted cells.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Row {
    /// Line in a text file (from 1, the header counted), row in a Parquet file (from 1).
    pub(super) place: u64,
    pub(super) text: String,
    pub(super) pair: Option<String>,
    pub(super) label: Cell,
}

/// A label as it is written.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Cell {
    Text(String),
    Int(i64),
    Float(f64),
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "{text:?}"),
            Self::Int(n) => write!(f, "{n}"),
            Self::Float(x) => write!(f, "{x}"),
        }
    }
}

/// A row that cannot be used, and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BadRow {
    pub(super) place: u64,
    pub(super) message: String,
}

/// A file that cannot be read at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum TableError {
    #[error("{0}")]
    Unreadable(String),
    #[error("there is no column {column:?}; there are {}", .known.join(", "))]
    NoColumn { column: String, known: Vec<String>, near: Option<String> },
    #[error("its format is not known from its name")]
    Format,
}

impl Format {
    /// The format a name's ending says.
    pub(super) fn of_name(name: &str) -> Option<Self> {
        let ending = name.rsplit_once('.')?.1.to_ascii_lowercase();
        match ending.as_str() {
            "tsv" => Some(Self::Tsv),
            "csv" => Some(Self::Csv),
            "jsonl" | "ndjson" => Some(Self::Jsonl),
            "parquet" => Some(Self::Parquet),
            _ => None,
        }
    }
}

/// How a file is read.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    pub(super) format: Option<Format>,
    pub(super) header: bool,
    pub(super) columns: Columns,
}

/// Reads every row; rows that cannot be used are handed to `each` as well.
pub(super) fn read(
    path: &Path,
    name: &str,
    layout: &Layout,
    each: &mut dyn FnMut(Result<Row, BadRow>),
) -> Result<(), TableError> {
    let format = layout.format.or_else(|| Format::of_name(name)).ok_or(TableError::Format)?;
    let unreadable = |e: &dyn fmt::Display| TableError::Unreadable(e.to_string());
    let file = File::open(path).map_err(|e| unreadable(&e))?;
    match format {
        Format::Tsv => separated(file, b'\t', layout, each),
        Format::Csv => separated(file, b',', layout, each),
        Format::Jsonl => lines(file, &layout.columns, each),
        Format::Parquet => parquet_rows(file, &layout.columns, each),
    }
}

fn no_column(column: &str, known: &[String]) -> TableError {
    let near = nearest(column, known.iter().map(String::as_str)).map(str::to_owned);
    TableError::NoColumn { column: column.to_owned(), known: known.to_vec(), near }
}

/// The index of a column by its name, or by its number from 0.
fn index_of(column: &str, known: &[String]) -> Result<usize, TableError> {
    let by_number = || column.parse().ok().filter(|i| *i < known.len());
    known.iter().position(|k| k == column).or_else(by_number).ok_or_else(|| no_column(column, known))
}

fn separated(
    mut file: File,
    delimiter: u8,
    layout: &Layout,
    each: &mut dyn FnMut(Result<Row, BadRow>),
) -> Result<(), TableError> {
    skip_byte_order_mark(&mut file)?;
    let mut reader = csv::ReaderBuilder::new()
        .delimiter(delimiter)
        .quoting(delimiter == b',')
        .has_headers(false)
        .flexible(true)
        .from_reader(BufReader::new(file));
    let mut record = csv::ByteRecord::new();
    let mut indices = None;
    let mut width = 0;
    loop {
        match reader.read_byte_record(&mut record) {
            Ok(true) => {}
            Ok(false) => return Ok(()),
            Err(e) => return Err(TableError::Unreadable(e.to_string())),
        }
        let place = record.position().map_or(0, csv::Position::line);
        let cells: Vec<_> = record.iter().map(std::str::from_utf8).collect();
        if indices.is_none() {
            width = cells.len();
            let names: Vec<String> = if layout.header {
                cells.iter().map(|c| c.map_or_else(|_| "?".to_owned(), |c| c.trim().to_owned())).collect()
            } else {
                (0..width).map(|i| i.to_string()).collect()
            };
            let Columns { text, pair, label } = &layout.columns;
            let pair = pair.as_ref().map(|p| index_of(p, &names)).transpose()?;
            indices = Some((index_of(text, &names)?, pair, index_of(label, &names)?));
            if layout.header {
                continue;
            }
        }
        let Some((text, pair, label)) = indices else { continue };
        if cells.len() != width {
            let hint = if delimiter == b'\t' && cells.len() > width {
                "; a text with a tab in it needs format: csv and quotes"
            } else {
                ""
            };
            each(Err(BadRow { place, message: format!("{} columns in place of {width}{hint}", cells.len()) }));
            continue;
        }
        let cell = |i: usize| cells[i].map(str::to_owned).map_err(|_| BadRow { place, message: "not UTF-8".to_owned() });
        each((|| {
            let pair = pair.map(cell).transpose()?;
            Ok(Row { place, text: cell(text)?, pair, label: Cell::Text(cell(label)?) })
        })());
    }
}

fn skip_byte_order_mark(file: &mut File) -> Result<(), TableError> {
    use std::io::{Seek, SeekFrom};
    let unreadable = |e: std::io::Error| TableError::Unreadable(e.to_string());
    let mut start = Vec::new();
    file.by_ref().take(3).read_to_end(&mut start).map_err(unreadable)?;
    if start != [0xef, 0xbb, 0xbf] {
        file.seek(SeekFrom::Start(0)).map_err(unreadable)?;
    }
    Ok(())
}

fn lines(file: File, columns: &Columns, each: &mut dyn FnMut(Result<Row, BadRow>)) -> Result<(), TableError> {
    let mut reader = BufReader::new(file);
    let mut line = Vec::new();
    for place in 1.. {
        line.clear();
        let mut bounded = reader.by_ref().take(MAX_LINE as u64);
        let n = bounded.read_until(b'\n', &mut line).map_err(|e| TableError::Unreadable(e.to_string()))?;
        if n == 0 {
            break;
        }
        if n == MAX_LINE {
            return Err(TableError::Unreadable(format!("line {place} is longer than {MAX_LINE} bytes")));
        }
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        each(json_row(&line, columns, place).map_err(|message| BadRow { place, message }));
    }
    Ok(())
}

fn json_row(line: &[u8], columns: &Columns, place: u64) -> Result<Row, String> {
    let object: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(line).map_err(|e| format!("not a JSON object: {e}"))?;
    let field = |name: &str| {
        object.get(name).filter(|v| !v.is_null()).ok_or_else(|| {
            let near = nearest(name, object.keys().map(String::as_str)).map(|n| format!("; did you mean {n:?}?"));
            format!("no field {name:?}{}", near.unwrap_or_default())
        })
    };
    let text = |name: &str| field(name)?.as_str().map(str::to_owned).ok_or_else(|| format!("field {name:?} is not a text"));
    let label = match field(&columns.label)? {
        serde_json::Value::String(text) => Cell::Text(text.clone()),
        serde_json::Value::Bool(b) => Cell::Int(i64::from(*b)),
        serde_json::Value::Number(n) => match n.as_i64() {
            Some(n) => Cell::Int(n),
            None => Cell::Float(n.as_f64().unwrap_or(f64::NAN)),
        },
        _ => return Err(format!("field {:?} is neither a text nor a number", columns.label)),
    };
    let pair = columns.pair.as_deref().map(text).transpose()?;
    Ok(Row { place, text: text(&columns.text)?, pair, label })
}

fn parquet_rows(file: File, columns: &Columns, each: &mut dyn FnMut(Result<Row, BadRow>)) -> Result<(), TableError> {
    let unreadable = |e: parquet::errors::ParquetError| TableError::Unreadable(e.to_string());
    let reader = SerializedFileReader::new(file).map_err(unreadable)?;
    let schema = reader.metadata().file_metadata().schema();
    let known: Vec<String> = schema.get_fields().iter().map(|f| f.name().to_owned()).collect();
    let wanted = [Some(&columns.text), columns.pair.as_ref(), Some(&columns.label)];
    let mut chosen: Vec<usize> = wanted.into_iter().flatten().map(|c| index_of(c, &known)).collect::<Result<_, _>>()?;
    let at = chosen.clone();
    chosen.sort_unstable();
    chosen.dedup();
    let fields = chosen.iter().map(|i| schema.get_fields()[*i].clone()).collect();
    let projection = Type::group_type_builder(schema.name()).with_fields(fields).build().map_err(unreadable)?;
    let rows = reader.get_row_iter(Some(projection)).map_err(unreadable)?;
    for (place, row) in (1..).zip(rows) {
        let row = row.map_err(unreadable)?;
        let cells: Vec<&Field> = row.get_column_iter().map(|(_, field)| field).collect();
        let cell =
            |column: usize| chosen.binary_search(&at[column]).ok().and_then(|i| cells.get(i).copied()).unwrap_or(&Field::Null);
        let text = |column: usize| match cell(column) {
            Field::Str(text) => Ok(text.clone()),
            Field::Bytes(bytes) => String::from_utf8(bytes.data().to_vec()).map_err(|_| "not UTF-8".to_owned()),
            Field::Null => Err(format!("column {:?} is empty", known[at[column]])),
            other => Err(format!("column {:?} holds {other} in place of a text", known[at[column]])),
        };
        let parsed = (|| {
            let pair = columns.pair.is_some().then(|| text(1)).transpose()?;
            let label =
                parquet_label(cell(at.len() - 1)).ok_or_else(|| format!("column {:?} has no usable label", columns.label))?;
            Ok(Row { place, text: text(0)?, pair, label })
        })();
        each(parsed.map_err(|message| BadRow { place, message }));
    }
    Ok(())
}

fn parquet_label(field: &Field) -> Option<Cell> {
    Some(match field {
        Field::Str(text) => Cell::Text(text.clone()),
        Field::Bool(b) => Cell::Int(i64::from(*b)),
        Field::Byte(n) => Cell::Int(i64::from(*n)),
        Field::Short(n) => Cell::Int(i64::from(*n)),
        Field::Int(n) => Cell::Int(i64::from(*n)),
        Field::Long(n) => Cell::Int(*n),
        Field::UByte(n) => Cell::Int(i64::from(*n)),
        Field::UShort(n) => Cell::Int(i64::from(*n)),
        Field::UInt(n) => Cell::Int(i64::from(*n)),
        Field::ULong(n) => Cell::Int(i64::try_from(*n).ok()?),
        Field::Float(x) => Cell::Float(f64::from(*x)),
        Field::Double(x) => Cell::Float(*x),
        _ => return None,
    })
}
