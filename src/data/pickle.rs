//! Python pickles, read without running anything.
//!
//! A pickle is a program for a small stack machine, and CPython's `pickle.load` calls whatever it asks for. This
//! one calls nothing: it knows by name the few things a file of features is made of (numbers, text, lists, dicts,
//! sets and numpy arrays of them, see `Callable::named`), builds those itself, and refuses everything else where
//! it is named, before anything could be done with it.
//!
//! Protocols 0 to 5 are read, from Python 2 and 3 and from numpy before and after 2.0. Python 2's `str` is text
//! in Latin-1, as with `encoding='latin1'`.
//!
//! A hostile file can do no more than be refused. Values live in one flat arena and refer to each other by index,
//! so neither reading, dropping nor a cycle of references takes the stack of this program; byte strings are
//! slices of the file, so a length that the file does not hold is an error and not an allocation; and the few
//! operations that copy (`set(list)`, `_codecs.encode`) draw on a budget in proportion to the file.

use std::borrow::Cow;
use std::fmt::Display;

use super::number::Number;
use crate::error::{Error, Result};

/// A value of a [`Pickle`], by its place in the arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Id(u32);

/// A value as it stood when the pickle ended.
#[derive(Debug, Clone)]
pub enum Value<'a> {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    /// UTF-8, not yet checked.
    Text(Cow<'a, [u8]>),
    /// Python 2's `str`: Latin-1 when it stands for text.
    Latin1(Cow<'a, [u8]>),
    Bytes(Cow<'a, [u8]>),
    List(Vec<Id>),
    Tuple(Vec<Id>),
    /// In the order of the file: repetitions are not looked for.
    Set(Vec<Id>),
    /// In the order of the file: a key that is set twice stands twice, the last one counts.
    Dict(Vec<(Id, Id)>),
    Array(Box<Array>),
    Dtype(Dtype),
    Callable(Callable),
}

/// A numpy array of numbers.
#[derive(Debug, Clone)]
pub struct Array {
    pub shape: Vec<usize>,
    dtype: Dtype,
    /// Whether the first index is the one that runs fastest.
    fortran: bool,
    /// The value that holds the bytes, `None` before numpy's `__setstate__` (then the shape is `[0]`). Checked:
    /// as many bytes as the shape and the type need.
    data: Option<Id>,
}

/// The type of an array's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dtype {
    kind: Kind,
    big_endian: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Number(Number),
    Bool,
    /// So many characters of UTF-32, padded with zeros.
    Unicode(u32),
    /// So many bytes, padded with zeros.
    Bytes(u32),
    /// References: the state holds a list instead of bytes.
    Object,
}

/// What a pickle may name. None of them is run: each is a value built here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Callable {
    Set,
    List,
    Tuple,
    Dict,
    DefaultDict,
    Bytes,
    /// A type that is named and never built from (`defaultdict(int)`).
    Scalar,
    /// `_codecs.encode`: how Python 3 writes bytes in protocols 0 to 2.
    Encode,
    Ndarray,
    Dtype,
    /// `numpy.core.multiarray._reconstruct`: an empty array, filled by its state.
    Reconstruct,
    /// `numpy.core.multiarray.scalar`.
    NumpyScalar,
    /// `numpy.core.numeric._frombuffer`: an array in protocol 5.
    FromBuffer,
}

impl Callable {
    /// The list of what is allowed, complete.
    fn named(module: &[u8], name: &[u8]) -> Option<Callable> {
        Some(match (module, name) {
            (b"builtins" | b"__builtin__", b"set" | b"frozenset") => Callable::Set,
            (b"builtins" | b"__builtin__", b"list") => Callable::List,
            (b"builtins" | b"__builtin__", b"tuple") => Callable::Tuple,
            (b"builtins" | b"__builtin__", b"dict") => Callable::Dict,
            (b"builtins" | b"__builtin__", b"bytes" | b"bytearray") => Callable::Bytes,
            (b"builtins" | b"__builtin__", b"int" | b"float" | b"str") => Callable::Scalar,
            (b"collections", b"OrderedDict") => Callable::Dict,
            (b"collections", b"defaultdict") => Callable::DefaultDict,
            (b"_codecs", b"encode") => Callable::Encode,
            (b"numpy", b"ndarray") => Callable::Ndarray,
            (b"numpy", b"dtype") => Callable::Dtype,
            (b"numpy.core.multiarray" | b"numpy._core.multiarray", b"_reconstruct") => Callable::Reconstruct,
            (b"numpy.core.multiarray" | b"numpy._core.multiarray", b"scalar") => Callable::NumpyScalar,
            (b"numpy.core.numeric" | b"numpy._core.numeric", b"_frombuffer") => Callable::FromBuffer,
            _ => return None,
        })
    }
}

/// A pickle that was read: its values, and which of them it is.
#[derive(Debug)]
pub struct Pickle<'a> {
    values: Vec<Value<'a>>,
    root: Id,
}

/// Reads the pickle at the start of `bytes`; what follows its end is left alone, as Python does.
///
/// # Errors
/// `Error::Input`, beginning with `source` and the byte where reading stopped, when the file is no pickle, is cut
/// short, is damaged, or asks for anything outside the list of what is allowed, which is then named.
pub fn read<'a>(bytes: &'a [u8], source: &str) -> Result<Pickle<'a>> {
    let mut machine = Machine {
        bytes,
        next: 0,
        at: 0,
        values: Vec::new(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: Vec::new(),
        budget: bytes.len().saturating_mul(8).saturating_add(4096),
    };
    match machine.run() {
        Ok(root) => Ok(Pickle { values: machine.values, root }),
        Err(message) => Err(Error::input(format!("{source}: byte {}: {message}", machine.at))),
    }
}

impl<'a> Pickle<'a> {
    pub fn root(&self) -> Id {
        self.root
    }

    pub fn get(&self, id: Id) -> &Value<'a> {
        &self.values[id.0 as usize]
    }

    /// Items of a list, a tuple or a set.
    pub fn items(&self, id: Id) -> Option<&[Id]> {
        match self.get(id) {
            Value::List(items) | Value::Tuple(items) | Value::Set(items) => Some(items),
            _ => None,
        }
    }

    /// Text of a `str` of either Python. What is no text (a lone surrogate) becomes U+FFFD.
    pub fn text(&self, id: Id) -> Option<Cow<'_, str>> {
        match self.get(id) {
            Value::Text(bytes) => Some(String::from_utf8_lossy(bytes)),
            Value::Latin1(bytes) => Some(match std::str::from_utf8(bytes) {
                Ok(text) if text.is_ascii() => Cow::Borrowed(text),
                _ => Cow::Owned(bytes.iter().map(|&byte| char::from(byte)).collect()),
            }),
            _ => None,
        }
    }

    /// What a value is, for messages.
    pub fn describe(&self, id: Id) -> String {
        let text = match self.get(id) {
            Value::None => "None",
            Value::Bool(_) => "a bool",
            Value::Int(_) => "an int",
            Value::Float(_) => "a float",
            Value::Text(_) | Value::Latin1(_) => "a str",
            Value::Bytes(_) => "bytes",
            Value::List(_) => "a list",
            Value::Tuple(_) => "a tuple",
            Value::Set(_) => "a set",
            Value::Dict(_) => "a dict",
            Value::Dtype(_) => "a numpy dtype",
            Value::Callable(_) => "a type",
            Value::Array(array) => return format!("a numpy array of shape {:?}", array.shape),
        };
        text.to_string()
    }

    /// How many numbers, letters or items a value holds itself.
    pub fn weight(&self, id: Id) -> usize {
        match self.get(id) {
            Value::Text(bytes) | Value::Latin1(bytes) | Value::Bytes(bytes) => bytes.len(),
            Value::List(items) | Value::Tuple(items) | Value::Set(items) => items.len(),
            Value::Dict(pairs) => pairs.len(),
            Value::Array(array) => array.data(self).len() / array.dtype.bytes(),
            _ => 1,
        }
    }

    /// Appends an array's elements, the last index running fastest whatever the order in the file.
    pub fn numbers(&self, array: &Array, out: &mut Vec<f64>) {
        let data = array.data(self);
        let start = out.len();
        if let Some(number) = array.dtype.number() {
            number.decode(array.dtype.big_endian, data, out);
        }
        if array.fortran && array.shape.iter().filter(|&&size| size > 1).count() > 1 {
            let stored = out.split_off(start);
            let mut index = vec![0usize; array.shape.len()];
            for _ in 0..stored.len() {
                let mut position = 0;
                for (&size, &index) in array.shape.iter().zip(&index).rev() {
                    position = position * size + index;
                }
                out.push(stored[position]);
                for (size, index) in array.shape.iter().zip(&mut index).rev() {
                    *index += 1;
                    if *index < *size {
                        break;
                    }
                    *index = 0;
                }
            }
        }
    }

    /// Elements of an array of whole numbers; `None` when they are not.
    pub fn integers(&self, array: &Array) -> Option<Vec<i64>> {
        let number = array.dtype.number().filter(|number| number.is_whole())?;
        let elements = array.data(self).chunks_exact(number.size());
        elements.map(|element| number.integer(array.dtype.big_endian, element)).collect()
    }
}

impl Array {
    fn data<'p>(&self, pickle: &'p Pickle<'_>) -> &'p [u8] {
        self.data.and_then(|id| octets(pickle.get(id))).unwrap_or(&[])
    }
}

/// The bytes of a byte string of either Python.
fn octets<'v>(value: &'v Value<'_>) -> Option<&'v [u8]> {
    match value {
        Value::Bytes(bytes) | Value::Latin1(bytes) => Some(bytes),
        _ => None,
    }
}

impl Dtype {
    /// From numpy's name: kind and size, `f8` or `U12` (an order before it, `<f8`, is taken too).
    fn named(name: &str) -> Option<Dtype> {
        let big_endian = name.starts_with('>');
        let name = name.trim_start_matches(['<', '>', '=', '|']);
        let (kind, size) = name.split_at_checked(1)?;
        let characters = || size.parse().ok().filter(|size| (1..1 << 24).contains(size));
        let kind = match (kind, size) {
            ("b", "1") => Kind::Bool,
            ("U", _) => Kind::Unicode(characters()?),
            ("S", _) => Kind::Bytes(characters()?),
            ("O", _) => Kind::Object,
            _ => Kind::Number(Number::named(name)?),
        };
        Some(Dtype { kind, big_endian })
    }

    /// Bytes of an element, at least 1.
    fn bytes(self) -> usize {
        match self.kind {
            Kind::Number(number) => number.size(),
            Kind::Bool => 1,
            Kind::Unicode(characters) => 4 * characters as usize,
            Kind::Bytes(bytes) => bytes as usize,
            Kind::Object => 8,
        }
    }

    /// What the elements are as numbers; `None` for texts and references, of which no arrays are made.
    fn number(self) -> Option<Number> {
        match self.kind {
            Kind::Number(number) => Some(number),
            Kind::Bool => Some(Number::U8),
            _ => None,
        }
    }

    /// One element of texts.
    fn string<'a>(self, element: &[u8]) -> Value<'a> {
        if let Kind::Unicode(_) = self.kind {
            let code = if self.big_endian { u32::from_be_bytes } else { u32::from_le_bytes };
            let character = |&bytes| char::from_u32(code(bytes)).unwrap_or(char::REPLACEMENT_CHARACTER);
            let text: String = element.as_chunks().0.iter().map(character).collect();
            return Value::Text(Cow::Owned(text.trim_end_matches('\0').as_bytes().to_vec()));
        }
        let length = element.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
        Value::Latin1(Cow::Owned(element[..length].to_vec()))
    }
}

/// What stopped the machine; [`read`] adds the file and the byte.
type Step<T> = std::result::Result<T, String>;

struct Machine<'a> {
    bytes: &'a [u8],
    /// Where the next instruction or argument begins.
    next: usize,
    /// Where the present instruction began.
    at: usize,
    values: Vec<Value<'a>>,
    stack: Vec<Id>,
    /// Heights of the stack at which a MARK stands.
    marks: Vec<usize>,
    memo: Vec<Option<Id>>,
    /// Bytes and items that may still be copied.
    budget: usize,
}

impl<'a> Machine<'a> {
    fn run(&mut self) -> Step<Id> {
        loop {
            self.at = self.next;
            let instruction = self.byte()?;
            if instruction == b'.' {
                return self.pop();
            }
            self.step(instruction)?;
        }
    }

    /// One instruction, by the names of CPython's `pickletools`.
    fn step(&mut self, instruction: u8) -> Step<()> {
        match instruction {
            // PROTO, FRAME
            0x80 => {
                let protocol = self.byte()?;
                if protocol > 5 {
                    return Err(format!(
                        "pickle protocol {protocol} is newer than 5: save the file with protocol 4"
                    ));
                }
            }
            0x95 => {
                self.length(8)?;
            }
            // MARK, POP, POP_MARK, DUP
            b'(' => self.marks.push(self.stack.len()),
            b'0' => {
                if self.marks.last() == Some(&self.stack.len()) {
                    self.marks.pop();
                } else {
                    self.pop()?;
                }
            }
            b'1' => {
                let mark = self.mark()?;
                self.stack.truncate(mark);
            }
            b'2' => {
                let top = self.top()?;
                self.stack.push(top);
            }
            // PUT, BINPUT, LONG_BINPUT, MEMOIZE; GET, BINGET, LONG_BINGET
            b'p' => {
                let index = self.number_line()?;
                self.put(index)?;
            }
            b'q' => {
                let index = usize::from(self.byte()?);
                self.put(index)?;
            }
            b'r' => {
                let index = self.unsigned(4)? as usize;
                self.put(index)?;
            }
            0x94 => self.put(self.memo.len())?,
            b'g' => {
                let index = self.number_line()?;
                self.fetch(index)?;
            }
            b'h' => {
                let index = usize::from(self.byte()?);
                self.fetch(index)?;
            }
            b'j' => {
                let index = self.unsigned(4)? as usize;
                self.fetch(index)?;
            }
            // NONE, NEWTRUE, NEWFALSE
            b'N' => self.push(Value::None)?,
            0x88 => self.push(Value::Bool(true))?,
            0x89 => self.push(Value::Bool(false))?,
            // INT, LONG, BININT, BININT1, BININT2, LONG1, LONG4
            b'I' => {
                let line = self.line()?;
                let value = match line {
                    b"00" => Value::Bool(false),
                    b"01" => Value::Bool(true),
                    _ => Value::Int(parse(line, "whole number")?),
                };
                self.push(value)?;
            }
            b'L' => {
                let line = self.line()?;
                let value = parse(line.strip_suffix(b"L").unwrap_or(line), "whole number")?;
                self.push(Value::Int(value))?;
            }
            b'J' => {
                let value = self.unsigned(4)? as u32 as i32;
                self.push(Value::Int(i64::from(value)))?;
            }
            b'K' => {
                let value = self.byte()?;
                self.push(Value::Int(i64::from(value)))?;
            }
            b'M' => {
                let value = self.unsigned(2)?;
                self.push(Value::Int(value as i64))?;
            }
            0x8a => {
                let length = usize::from(self.byte()?);
                self.long(length)?;
            }
            0x8b => {
                let length = self.length(4)?;
                self.long(length)?;
            }
            // FLOAT, BINFLOAT
            b'F' => {
                let line = self.line()?;
                let value = parse(line, "number")?;
                self.push(Value::Float(value))?;
            }
            b'G' => {
                let bits = self.unsigned(8)?.swap_bytes();
                self.push(Value::Float(f64::from_bits(bits)))?;
            }
            // STRING, BINSTRING, SHORT_BINSTRING
            b'S' => {
                let line = self.line()?;
                let quoted = quoted(line).ok_or("a string without its quotes: the file is damaged")?;
                self.push(Value::Latin1(unescape(quoted)?))?;
            }
            b'T' => {
                let length = self.length(4)?;
                let bytes = self.take(length)?;
                self.push(Value::Latin1(Cow::Borrowed(bytes)))?;
            }
            b'U' => {
                let length = usize::from(self.byte()?);
                let bytes = self.take(length)?;
                self.push(Value::Latin1(Cow::Borrowed(bytes)))?;
            }
            // UNICODE, BINUNICODE, SHORT_BINUNICODE, BINUNICODE8
            b'V' => {
                let line = self.line()?;
                self.push(Value::Text(raw_unicode(line)?))?;
            }
            b'X' | 0x8c | 0x8d => {
                let length = match instruction {
                    0x8c => usize::from(self.byte()?),
                    b'X' => self.length(4)?,
                    _ => self.length(8)?,
                };
                let bytes = self.take(length)?;
                self.push(Value::Text(Cow::Borrowed(bytes)))?;
            }
            // BINBYTES, SHORT_BINBYTES, BINBYTES8, BYTEARRAY8
            b'B' | b'C' | 0x8e | 0x96 => {
                let length = match instruction {
                    b'C' => usize::from(self.byte()?),
                    b'B' => self.length(4)?,
                    _ => self.length(8)?,
                };
                let bytes = self.take(length)?;
                self.push(Value::Bytes(Cow::Borrowed(bytes)))?;
            }
            // EMPTY_LIST, LIST, APPEND, APPENDS
            b']' => self.push(Value::List(Vec::new()))?,
            b'l' => {
                let items = self.pop_to_mark()?;
                self.push(Value::List(items))?;
            }
            b'a' => {
                let item = self.pop()?;
                self.list()?.push(item);
            }
            b'e' => {
                let items = self.pop_to_mark()?;
                self.list()?.extend(items);
            }
            // EMPTY_TUPLE, TUPLE, TUPLE1, TUPLE2, TUPLE3
            b')' => self.push(Value::Tuple(Vec::new()))?,
            b't' => {
                let items = self.pop_to_mark()?;
                self.push(Value::Tuple(items))?;
            }
            0x85..=0x87 => {
                let mut items = Vec::with_capacity(3);
                for _ in 0..instruction - 0x84 {
                    items.push(self.pop()?);
                }
                items.reverse();
                self.push(Value::Tuple(items))?;
            }
            // EMPTY_DICT, DICT, SETITEM, SETITEMS
            b'}' => self.push(Value::Dict(Vec::new()))?,
            b'd' => {
                let items = self.pop_to_mark()?;
                self.push(Value::Dict(pairs(&items)?))?;
            }
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.dict()?.push((key, value));
            }
            b'u' => {
                let items = self.pop_to_mark()?;
                let pairs = pairs(&items)?;
                self.dict()?.extend(pairs);
            }
            // EMPTY_SET, ADDITEMS, FROZENSET
            0x8f => self.push(Value::Set(Vec::new()))?,
            0x90 => {
                let items = self.pop_to_mark()?;
                let top = self.top()?;
                match self.value_mut(top) {
                    Value::Set(set) => set.extend(items),
                    _ => return Err("items added to what is no set: the file is damaged".to_string()),
                }
            }
            0x91 => {
                let items = self.pop_to_mark()?;
                self.push(Value::Set(items))?;
            }
            // GLOBAL, STACK_GLOBAL, INST
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                let callable = allowed(module, name)?;
                self.push(Value::Callable(callable))?;
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let callable = match (self.value(module), self.value(name)) {
                    (
                        Value::Text(module) | Value::Latin1(module),
                        Value::Text(name) | Value::Latin1(name),
                    ) => allowed(module, name)?,
                    _ => return Err("a name that is no text: the file is damaged".to_string()),
                };
                self.push(Value::Callable(callable))?;
            }
            b'i' => {
                let (module, name) = (self.line()?, self.line()?);
                allowed(module, name)?;
                return Err(format!("{} built as an instance is not read", dotted(module, name)));
            }
            // REDUCE, NEWOBJ: both build from a tuple of arguments.
            b'R' | 0x81 => {
                let (arguments, callable) = (self.pop()?, self.pop()?);
                let Value::Callable(callable) = *self.value(callable) else {
                    return Err("a call of what cannot be called: the file is damaged".to_string());
                };
                let value = self.build(callable, arguments)?;
                self.push(value)?;
            }
            // BUILD
            b'b' => {
                let state = self.pop()?;
                let target = self.top()?;
                self.set_state(target, state)?;
            }
            // PERSID, BINPERSID; EXT1, EXT2, EXT4; OBJ, NEWOBJ_EX; NEXT_BUFFER, READONLY_BUFFER
            b'P' | b'Q' => return Err(refused("a persistent id, an object kept outside the file")),
            0x82..=0x84 => return Err(refused("an object of copyreg's extension registry")),
            b'o' | 0x92 => return Err(refused("an object built by its class")),
            0x97 | 0x98 => return Err(refused("a buffer kept outside the file")),
            other => {
                return Err(format!(
                    "0x{other:02x} is no pickle instruction: the file is damaged, compressed, or no pickle"
                ));
            }
        }
        Ok(())
    }

    /// What `callable(*arguments)` yields.
    fn build(&mut self, callable: Callable, arguments: Id) -> Step<Value<'a>> {
        let Value::Tuple(arguments) = self.value(arguments) else {
            return Err("arguments that are no tuple: the file is damaged".to_string());
        };
        if arguments.len() > 5 {
            return Err(format!("a call with {} arguments: the file is damaged", arguments.len()));
        }
        let arguments = arguments.clone();
        let wrong = || {
            format!("{callable:?} with arguments that numpy and Python do not give it: the file is damaged")
        };
        match (callable, arguments.as_slice()) {
            (Callable::Set, []) => Ok(Value::Set(Vec::new())),
            (Callable::Set, &[items]) => Ok(Value::Set(self.copied(items)?)),
            (Callable::List, []) => Ok(Value::List(Vec::new())),
            (Callable::List, &[items]) => Ok(Value::List(self.copied(items)?)),
            (Callable::Tuple, []) => Ok(Value::Tuple(Vec::new())),
            (Callable::Tuple, &[items]) => Ok(Value::Tuple(self.copied(items)?)),
            (Callable::Dict, []) | (Callable::DefaultDict, [] | [_]) => Ok(Value::Dict(Vec::new())),
            (Callable::Dict, &[items]) => {
                let items = self.copied(items)?;
                let mut pairs = Vec::with_capacity(items.len());
                for item in items {
                    match self.value(item) {
                        Value::List(pair) | Value::Tuple(pair) if pair.len() == 2 => {
                            pairs.push((pair[0], pair[1]))
                        }
                        _ => return Err(wrong()),
                    }
                }
                Ok(Value::Dict(pairs))
            }
            (Callable::Bytes, []) => Ok(Value::Bytes(Cow::Borrowed(&[]))),
            (Callable::Bytes, &[content]) => {
                let length = octets(self.value(content)).ok_or_else(wrong)?.len();
                self.spend(length)?;
                match self.value(content) {
                    Value::Bytes(bytes) | Value::Latin1(bytes) => Ok(Value::Bytes(bytes.clone())),
                    _ => Err(wrong()),
                }
            }
            (Callable::Encode | Callable::Bytes, &[text, encoding]) => self.encode(text, encoding),
            (Callable::Dtype, &[name, ..]) => {
                let Some(name) = self.short_text(name) else {
                    return Err(wrong());
                };
                let dtype = Dtype::named(&name).ok_or_else(|| {
                    format!(
                        "numpy's type {name:?} is not read: save the array as float32, float64 or integers"
                    )
                })?;
                Ok(Value::Dtype(dtype))
            }
            (Callable::Reconstruct, &[class, _, _]) => match self.value(class) {
                Value::Callable(Callable::Ndarray) => {
                    let dtype = Dtype { kind: Kind::Number(Number::I8), big_endian: false };
                    Ok(Value::Array(Box::new(Array { shape: vec![0], dtype, fortran: false, data: None })))
                }
                _ => Err(wrong()),
            },
            (Callable::NumpyScalar, &[dtype, content]) => {
                let (Value::Dtype(dtype), Some(content)) = (self.value(dtype), octets(self.value(content)))
                else {
                    return Err(wrong());
                };
                let dtype = *dtype;
                if content.len() != dtype.bytes() {
                    return Err(wrong());
                }
                match dtype.kind {
                    Kind::Bool => Ok(Value::Bool(content[0] != 0)),
                    Kind::Number(number) if number.is_whole() => {
                        let value = number.integer(dtype.big_endian, content);
                        value.map(Value::Int).ok_or_else(|| "a whole number beyond 63 bits".to_string())
                    }
                    Kind::Number(number) => {
                        let mut value = Vec::with_capacity(1);
                        number.decode(dtype.big_endian, content, &mut value);
                        Ok(Value::Float(value.first().copied().unwrap_or(f64::NAN)))
                    }
                    Kind::Unicode(_) | Kind::Bytes(_) => {
                        let text = dtype.string(content);
                        self.spend(dtype.bytes())?;
                        Ok(text)
                    }
                    Kind::Object => Err(wrong()),
                }
            }
            (Callable::FromBuffer, &[data, dtype, shape, order, ..]) => {
                let Value::Dtype(dtype) = *self.value(dtype) else {
                    return Err(wrong());
                };
                let fortran = match self.short_text(order).as_deref() {
                    Some("C") => false,
                    Some("F") => true,
                    _ => {
                        return Err(
                            "an array in neither C nor Fortran order: save numpy.ascontiguousarray of it"
                                .into(),
                        );
                    }
                };
                self.array(shape, dtype, fortran, data)
            }
            (Callable::Scalar | Callable::Ndarray, _) => {
                Err(refused("a number, a text or an array built by calling its type"))
            }
            _ => Err(wrong()),
        }
    }

    /// `__setstate__` of the two that have one: arrays and their types.
    fn set_state(&mut self, target: Id, state: Id) -> Step<()> {
        let damaged = || "a state that numpy does not write: the file is damaged".to_string();
        let Value::Tuple(state) = self.value(state) else {
            return Err(damaged());
        };
        match (self.value(target), state.as_slice()) {
            (Value::Dtype(dtype), &[_, order, subtype, names, fields, ..]) => {
                let mut dtype = *dtype;
                if [subtype, names, fields].into_iter().any(|part| !matches!(self.value(part), Value::None)) {
                    return Err(refused("a numpy type made of several fields"));
                }
                dtype.big_endian = match self.short_text(order).as_deref() {
                    Some(">") => true,
                    Some("<" | "=" | "|") => false,
                    _ => return Err(damaged()),
                };
                *self.value_mut(target) = Value::Dtype(dtype);
                Ok(())
            }
            (Value::Array(_), &[_, shape, dtype, fortran, data]) => {
                let (Value::Dtype(dtype), fortran) = (self.value(dtype), self.value(fortran)) else {
                    return Err(damaged());
                };
                let fortran = match fortran {
                    Value::Bool(fortran) => *fortran,
                    Value::Int(fortran) => *fortran != 0,
                    _ => return Err(damaged()),
                };
                let array = self.array(shape, *dtype, fortran, data)?;
                *self.value_mut(target) = array;
                Ok(())
            }
            _ => Err(damaged()),
        }
    }

    /// An array of `shape` over the bytes of `data`; arrays of texts and of references become lists.
    fn array(&mut self, shape: Id, dtype: Dtype, fortran: bool, data: Id) -> Step<Value<'a>> {
        let damaged = || "an array whose shape is no list of sizes: the file is damaged".to_string();
        let sizes = match self.value(shape) {
            Value::Tuple(sizes) if sizes.len() <= 64 => sizes.clone(),
            _ => return Err(damaged()),
        };
        let mut shape = Vec::with_capacity(sizes.len());
        for size in sizes {
            match *self.value(size) {
                Value::Int(size) => shape.push(usize::try_from(size).map_err(|_| damaged())?),
                _ => return Err(damaged()),
            }
        }
        let elements = shape.iter().try_fold(1usize, |product, &size| product.checked_mul(size));
        if dtype.kind == Kind::Object {
            return match (self.value(data), elements) {
                (Value::List(items), Some(elements)) if shape.len() == 1 && items.len() == elements => {
                    Ok(Value::List(self.copied(data)?))
                }
                _ => Err(format!("an array of objects of shape {shape:?}: only flat ones are read")),
            };
        }
        let Some(content) = octets(self.value(data)) else {
            return Err("an array whose content is no bytes: the file is damaged".to_string());
        };
        let length = content.len();
        if elements.and_then(|elements| elements.checked_mul(dtype.bytes())) != Some(length) {
            return Err(format!(
                "an array of shape {shape:?} with elements of {} bytes has {length} bytes of content: the file is damaged",
                dtype.bytes()
            ));
        }
        if matches!(dtype.kind, Kind::Unicode(_) | Kind::Bytes(_)) {
            if shape.len() > 1 {
                return Err(format!("an array of texts of shape {shape:?}: only flat ones are read"));
            }
            self.spend(length)?;
            let content = octets(self.value(data)).unwrap_or_default();
            let texts: Vec<Value<'a>> =
                content.chunks_exact(dtype.bytes()).map(|element| dtype.string(element)).collect();
            let items = texts.into_iter().map(|text| self.add(text)).collect::<Step<Vec<Id>>>()?;
            return Ok(Value::List(items));
        }
        Ok(Value::Array(Box::new(Array { shape, dtype, fortran, data: Some(data) })))
    }

    /// `_codecs.encode(text, 'latin1')`: one byte for each character.
    fn encode(&mut self, text: Id, encoding: Id) -> Step<Value<'a>> {
        match self.short_text(encoding).as_deref() {
            Some("latin1" | "latin-1") => {}
            other => {
                return Err(refused(format_args!("_codecs.encode with {}", other.unwrap_or("no encoding"))));
            }
        }
        let length = match self.value(text) {
            Value::Text(text) | Value::Latin1(text) => text.len(),
            _ => return Err("_codecs.encode of what is no text: the file is damaged".to_string()),
        };
        self.spend(length)?;
        match self.value(text) {
            Value::Text(text) => {
                let bytes = latin1(text)
                    .ok_or("_codecs.encode of a character beyond Latin-1: the file is damaged")?;
                Ok(Value::Bytes(Cow::Owned(bytes)))
            }
            other => Ok(Value::Bytes(Cow::Owned(octets(other).unwrap_or_default().to_vec()))),
        }
    }

    /// The items of a list, tuple or set, copied on the budget.
    fn copied(&mut self, id: Id) -> Step<Vec<Id>> {
        let items = match self.value(id) {
            Value::List(items) | Value::Tuple(items) | Value::Set(items) => items.len(),
            _ => return Err("a collection made of what is none: the file is damaged".to_string()),
        };
        self.spend(items)?;
        match self.value(id) {
            Value::List(items) | Value::Tuple(items) | Value::Set(items) => Ok(items.clone()),
            _ => Ok(Vec::new()),
        }
    }

    fn spend(&mut self, amount: usize) -> Step<()> {
        match self.budget.checked_sub(amount) {
            Some(left) => self.budget = left,
            None => return Err("the file unfolds into far more than its own size: refused".to_string()),
        }
        Ok(())
    }

    /// The text of a short name (a type, an order, an encoding), `None` when it is none.
    fn short_text(&self, id: Id) -> Option<String> {
        match self.value(id) {
            Value::Text(bytes) | Value::Latin1(bytes) | Value::Bytes(bytes) if bytes.len() <= 32 => {
                std::str::from_utf8(bytes).ok().map(String::from)
            }
            _ => None,
        }
    }

    fn value(&self, id: Id) -> &Value<'a> {
        &self.values[id.0 as usize]
    }

    fn value_mut(&mut self, id: Id) -> &mut Value<'a> {
        &mut self.values[id.0 as usize]
    }

    fn add(&mut self, value: Value<'a>) -> Step<Id> {
        let id =
            u32::try_from(self.values.len()).map_err(|_| "more than 2^32 values: refused".to_string())?;
        self.values.push(value);
        Ok(Id(id))
    }

    fn push(&mut self, value: Value<'a>) -> Step<()> {
        let id = self.add(value)?;
        self.stack.push(id);
        Ok(())
    }

    /// The height of the stack below which this part of the program may not reach.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn top(&self) -> Step<Id> {
        match self.stack.last() {
            Some(&id) if self.stack.len() > self.floor() => Ok(id),
            _ => Err("an instruction finds the stack empty: the file is damaged".to_string()),
        }
    }

    fn pop(&mut self) -> Step<Id> {
        let id = self.top()?;
        self.stack.pop();
        Ok(id)
    }

    fn mark(&mut self) -> Step<usize> {
        self.marks.pop().ok_or_else(|| "an instruction finds no mark: the file is damaged".to_string())
    }

    fn pop_to_mark(&mut self) -> Step<Vec<Id>> {
        let mark = self.mark()?;
        Ok(self.stack.split_off(mark))
    }

    fn list(&mut self) -> Step<&mut Vec<Id>> {
        let top = self.top()?;
        match self.value_mut(top) {
            Value::List(items) => Ok(items),
            _ => Err("items appended to what is no list: the file is damaged".to_string()),
        }
    }

    fn dict(&mut self) -> Step<&mut Vec<(Id, Id)>> {
        let top = self.top()?;
        match self.value_mut(top) {
            Value::Dict(pairs) => Ok(pairs),
            _ => Err("items set in what is no dict: the file is damaged".to_string()),
        }
    }

    fn put(&mut self, index: usize) -> Step<()> {
        // Each entry takes two bytes or more of the file, counted from 0 or 1.
        if index > self.bytes.len() {
            return Err(format!(
                "memo entry {index} in a file of {} bytes: the file is damaged",
                self.bytes.len()
            ));
        }
        let top = self.top()?;
        if index >= self.memo.len() {
            self.memo.resize(index + 1, None);
        }
        self.memo[index] = Some(top);
        Ok(())
    }

    fn fetch(&mut self, index: usize) -> Step<()> {
        let id = self.memo.get(index).copied().flatten();
        let id =
            id.ok_or_else(|| format!("memo entry {index} is used before it is set: the file is damaged"))?;
        self.stack.push(id);
        Ok(())
    }

    fn byte(&mut self) -> Step<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn take(&mut self, length: usize) -> Step<&'a [u8]> {
        let rest = &self.bytes[self.next..];
        match rest.split_at_checked(length) {
            Some((taken, _)) => {
                self.next += length;
                Ok(taken)
            }
            None => Err(format!(
                "{length} bytes are announced and {} are left: the file is cut short",
                rest.len()
            )),
        }
    }

    /// A little-endian number of `size` bytes, at most eight.
    fn unsigned(&mut self, size: usize) -> Step<u64> {
        let mut bytes = [0u8; 8];
        bytes[..size].copy_from_slice(self.take(size)?);
        Ok(u64::from_le_bytes(bytes))
    }

    /// A length; one that no memory holds is one that the file does not hold.
    fn length(&mut self, size: usize) -> Step<usize> {
        let length = self.unsigned(size)?;
        Ok(usize::try_from(length).unwrap_or(usize::MAX))
    }

    /// A number of `length` bytes, little-endian, two's complement.
    fn long(&mut self, length: usize) -> Step<()> {
        let bytes = self.take(length)?;
        let negative = bytes.last().is_some_and(|&last| last >= 128);
        let mut extended = [if negative { 255u8 } else { 0 }; 8];
        let (kept, beyond) = bytes.split_at(length.min(8));
        extended[..kept.len()].copy_from_slice(kept);
        let value = i64::from_le_bytes(extended);
        if beyond.iter().any(|&byte| byte != if negative { 255 } else { 0 }) || (value < 0) != negative {
            return Err("a whole number beyond 63 bits".to_string());
        }
        self.push(Value::Int(value))
    }

    /// Up to the next newline, which is passed over.
    fn line(&mut self) -> Step<&'a [u8]> {
        let rest = &self.bytes[self.next..];
        let end = rest.iter().position(|&byte| byte == b'\n');
        let end = end.ok_or("a line without its end: the file is cut short")?;
        self.next += end + 1;
        let line = &rest[..end];
        Ok(line.strip_suffix(b"\r").unwrap_or(line))
    }

    fn number_line(&mut self) -> Step<usize> {
        let line = self.line()?;
        parse(line, "memo entry")
    }
}

fn refused(what: impl Display) -> String {
    format!("the pickle asks for {what}, which no file of features needs: refused, and nothing was run")
}

fn dotted(module: &[u8], name: &[u8]) -> String {
    let shown = |part: &[u8]| {
        let text: String = String::from_utf8_lossy(part).chars().take(100).collect();
        text.escape_debug().to_string()
    };
    format!("{}.{}", shown(module), shown(name))
}

fn allowed(module: &[u8], name: &[u8]) -> Step<Callable> {
    Callable::named(module, name).ok_or_else(|| {
        let what = refused(dotted(module, name));
        format!("{what}; save the file again with plain lists, dicts, text, numbers and numpy arrays")
    })
}

fn parse<T: std::str::FromStr>(line: &[u8], what: &str) -> Step<T> {
    let text = std::str::from_utf8(line).ok().and_then(|line| line.trim().parse().ok());
    text.ok_or_else(|| {
        let shown: String = String::from_utf8_lossy(line).chars().take(40).collect();
        format!("{shown:?} is no {what} that can be read")
    })
}

fn pairs(items: &[Id]) -> Step<Vec<(Id, Id)>> {
    let (pairs, rest) = items.as_chunks::<2>();
    if !rest.is_empty() {
        return Err("a dict with a key and no value: the file is damaged".to_string());
    }
    Ok(pairs.iter().map(|&[key, value]| (key, value)).collect())
}

/// What stands between the quotes of a `repr`.
fn quoted(line: &[u8]) -> Option<&[u8]> {
    match line {
        [b'\'', inner @ .., b'\''] | [b'"', inner @ .., b'"'] => Some(inner),
        _ => None,
    }
}

/// Python 2's `string_escape`, as `repr` writes it in protocol 0.
fn unescape(text: &[u8]) -> Step<Cow<'_, [u8]>> {
    if !text.contains(&b'\\') {
        return Ok(Cow::Borrowed(text));
    }
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != b'\\' {
            out.push(*first);
            continue;
        }
        let [escape, tail @ ..] = rest else {
            return Err("a string that ends within an escape: the file is damaged".to_string());
        };
        rest = tail;
        match escape {
            b'n' => out.push(b'\n'),
            b'r' => out.push(b'\r'),
            b't' => out.push(b'\t'),
            b'a' => out.push(7),
            b'b' => out.push(8),
            b'f' => out.push(12),
            b'v' => out.push(11),
            b'\\' | b'\'' | b'"' => out.push(*escape),
            b'x' => {
                let (value, tail) = digits(rest, 16, 2, 2)?;
                out.push(value as u8);
                rest = tail;
            }
            b'0'..=b'7' => {
                let (value, tail) = digits(&text[text.len() - rest.len() - 1..], 8, 1, 3)?;
                out.push(value as u8);
                rest = tail;
            }
            other => out.extend([b'\\', *other]),
        }
    }
    Ok(Cow::Owned(out))
}

/// Python's `raw_unicode_escape`: Latin-1 with `\uXXXX` and `\UXXXXXXXX`. Yields UTF-8 (a lone surrogate as three
/// bytes that are not).
fn raw_unicode(text: &[u8]) -> Step<Cow<'_, [u8]>> {
    if text.is_ascii() && !text.contains(&b'\\') {
        return Ok(Cow::Borrowed(text));
    }
    let mut out = Vec::with_capacity(text.len());
    let mut high: Option<u32> = None;
    let mut rest = text;
    while let [first, tail @ ..] = rest {
        rest = tail;
        let mut code = u32::from(*first);
        if *first == b'\\' {
            match rest {
                [size @ (b'u' | b'U'), tail @ ..] => {
                    let length = if *size == b'u' { 4 } else { 8 };
                    (code, rest) = digits(tail, 16, length, length)?;
                }
                [other, tail @ ..] => {
                    push_utf8(&mut out, code);
                    code = u32::from(*other);
                    rest = tail;
                }
                [] => {}
            }
        }
        // Python 2 may write one character as two surrogates.
        if let (Some(first), 0xdc00..=0xdfff) = (high, code) {
            out.truncate(out.len() - 3);
            code = 0x1_0000 + ((first - 0xd800) << 10) + (code - 0xdc00);
        }
        high = (0xd800..=0xdbff).contains(&code).then_some(code);
        push_utf8(&mut out, code);
    }
    Ok(Cow::Owned(out))
}

fn push_utf8(out: &mut Vec<u8>, code: u32) {
    match char::from_u32(code) {
        Some(character) => out.extend(character.encode_utf8(&mut [0; 4]).as_bytes()),
        None => out.extend([
            0xe0 | (code >> 12) as u8 & 0xf,
            0x80 | (code >> 6) as u8 & 0x3f,
            0x80 | code as u8 & 0x3f,
        ]),
    }
}

/// Reads `least` to `most` digits off the front of `text`.
fn digits(text: &[u8], radix: u32, least: usize, most: usize) -> Step<(u32, &[u8])> {
    let count = text.iter().take(most).take_while(|&&byte| char::from(byte).is_digit(radix)).count();
    if count < least {
        return Err("an escape without its digits: the file is damaged".to_string());
    }
    let (digits, rest) = text.split_at(count);
    let value = digits.iter().filter_map(|&byte| char::from(byte).to_digit(radix));
    Ok((value.fold(0u32, |value, digit| value.wrapping_mul(radix).wrapping_add(digit)), rest))
}

/// One byte for each character of UTF-8 `text`; `None` beyond U+00FF or when it is not UTF-8.
fn latin1(text: &[u8]) -> Option<Vec<u8>> {
    // The content of an array is noise, in which no branch can be foreseen: there is none in these loops. A lead
    // byte (two of them hold what Latin-1 has) is followed by one of 0x80 to 0xbf, and nothing else is.
    let leads = |byte: u8| byte & 0xfe == 0xc2;
    let follows = |byte: u8| byte & 0xc0 == 0x80;
    let beyond = |byte: u8| byte >= 0xc0 && !leads(byte);
    let (Some(&first), Some(&last)) = (text.first(), text.last()) else { return Some(Vec::new()) };
    let neighbours = text[1..].iter().zip(text);
    let wrong = neighbours.fold(follows(first) | leads(last) | beyond(first), |wrong, (&byte, &before)| {
        wrong | (follows(byte) != leads(before)) | beyond(byte)
    });
    if wrong {
        return None;
    }
    let mut out = vec![0u8; text.len()];
    let mut length = 0;
    let mut before = 0u8;
    // A lead byte is written over by the character that it begins: the byte after it, moved up where it is the second lead.
    let mut character = |byte: u8| {
        let character = byte | u8::from(before == 0xc3) << 6;
        before = byte;
        (character, usize::from(!leads(byte)))
    };
    let (blocks, rest) = text.as_chunks::<8>();
    for block in blocks {
        // Within a block no store can go past its end, which saves looking.
        let Some(to) = out[length..].first_chunk_mut::<8>() else { break };
        let mut at = 0;
        for &byte in block {
            let (value, moves) = character(byte);
            to[at & 7] = value;
            at += moves;
        }
        length += at;
    }
    for &byte in rest {
        let (value, moves) = character(byte);
        out[length] = value;
        length += moves;
    }
    out.truncate(length);
    out.shrink_to_fit();
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Stream, purpose};

    #[test]
    fn latin1_is_what_the_standard_library_says() {
        let all: Vec<u8> = (0..=255).collect();
        let text: String = all.iter().map(|&byte| char::from(byte)).collect();
        assert_eq!(latin1(text.as_bytes()), Some(all));
        assert_eq!(latin1(b""), Some(vec![]));
        // Of every length, with lead bytes at every place in a block.
        let mut stream = Stream::new(1, purpose::TEST);
        for length in 0..100 {
            let bytes: Vec<u8> = (0..length).map(|_| stream.next_u32() as u8).collect();
            let text: String = bytes.iter().map(|&byte| char::from(byte)).collect();
            assert_eq!(latin1(text.as_bytes()), Some(bytes));
        }
        // A lead byte alone, before ASCII, before another; a second byte alone; what lies beyond; overlong forms.
        let none: [&[u8]; 9] = [
            b"\xc2",
            b"a\xc3a",
            b"\xc2\xc2\x80",
            b"\x80",
            b"\xc2\x80\x80",
            b"\xc4\x80",
            b"\xe2\x98\x95",
            b"\xc0\x80",
            b"\xff",
        ];
        for text in none {
            assert_eq!(latin1(text), None, "{text:?}");
        }
    }

    #[test]
    fn the_list_of_what_is_allowed_holds_no_more() {
        for (module, name) in
            [("os", "system"), ("builtins", "eval"), ("numpy", "load"), ("collections", "dict"), ("", "")]
        {
            assert_eq!(Callable::named(module.as_bytes(), name.as_bytes()), None);
        }
        assert_eq!(Callable::named(b"numpy._core.multiarray", b"_reconstruct"), Some(Callable::Reconstruct));
    }
}
