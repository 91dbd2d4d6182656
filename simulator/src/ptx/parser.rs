//! PTX tokens to a [`Module`], one function at a time.
//!
//! A function is read in a single pass: `{ }` scopes open and close on a stack, and names are looked up where they stand.
//! Only labels are used before they are declared, so a function's labels are collected before its statements are read.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use super::expression::{self, Value};
use super::lexer::{self, Kind, Token};
use super::{
    Base, Function, Instruction, Location, Module, Operand, Register, Relocation, Space, Statement, Type,
    Variable,
};

/// Text that is no PTX, or PTX of a kind that nvcc does not write for `compute_75`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParseError {
    /// From 1.
    pub line: u32,
    /// From 1, in characters.
    pub column: u32,
    /// What was found, and what was expected.
    pub message: String,
}

impl std::fmt::Display for ParseError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "PTX {}:{}: {}", self.line, self.column, self.message)
    }
}

impl std::error::Error for ParseError {}

/// Reads a module. Stops at the first error; never panics, whatever the text.
pub fn parse(text: &str) -> Result<Module, ParseError> {
    let tokens = lexer::tokens(text)?;
    let mut parser = Parser {
        text,
        tokens: &tokens,
        at: 0,
        module: Module::default(),
        globals: Map::default(),
        pending: Vec::new(),
    };
    parser.module()?;
    Ok(parser.module)
}

/// Registers of one function: far above what a compiler needs, and a bound on what a short text can ask for.
const MOST_REGISTERS: usize = 1 << 20;
/// Bytes that an initialiser may reach; nvcc writes an image's bytes one by one, so longer ones do not occur.
const MOST_INITIAL: u64 = 64 << 20;
/// Scopes, or dimensions of an array, within one another. Bounds the recursion.
const MOST_NESTED: usize = 256;

/// Hashes names and places: they are short, many, and chosen by a compiler, so a few multiplications do.
#[derive(Default)]
struct NameHasher(u64);

impl NameHasher {
    fn mix(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

impl Hasher for NameHasher {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.mix(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, byte: u8) {
        self.mix(u64::from(byte));
    }

    fn write_u32(&mut self, word: u32) {
        self.mix(u64::from(word));
    }

    fn write_usize(&mut self, word: usize) {
        self.mix(word as u64);
    }

    fn finish(&self) -> u64 {
        // The table takes its index from the low bits, which a multiplication leaves the poorest.
        self.0 ^ (self.0 >> 32)
    }
}

type Map<Key, Value> = HashMap<Key, Value, BuildHasherDefault<NameHasher>>;

/// What a name of the module means: an index into its variables or its functions.
#[derive(Clone, Copy)]
enum Global {
    Variable(usize),
    Function(usize),
}

/// What a name within a function means.
#[derive(Clone, Copy)]
enum Local {
    Register(u32),
    /// Index into [`Function::variables`].
    Variable(usize),
    /// Index into [`Function::parameters`].
    Parameter(usize),
    /// Index into [`Function::returns`].
    Return(usize),
    Label(u32),
    /// The label of a `.callprototype` or a `.calltargets`, which the tree leaves out.
    Prototype,
}

/// What any name means.
#[derive(Clone, Copy)]
enum Meaning {
    Local(Local),
    Global(Global),
}

/// What a declaration hid, to come back into view at the scope's end.
enum Hidden<'a> {
    Name(&'a str, Option<(Local, usize)>),
    /// The prefix of the family that was last declared.
    Family(&'a str),
}

/// `%f<320>`: `count` registers from index `first` on, declared at a depth of scopes.
#[derive(Clone, Copy)]
struct Family {
    first: u32,
    count: u32,
    depth: usize,
    /// The next one further out with the same prefix, whose registers of higher numbers stay in view.
    outer: Option<usize>,
}

/// A call site: file, line and column.
type Site = (u32, u32, u32);

/// What is known within the function that is being read.
#[derive(Default)]
struct Scopes<'a> {
    /// Names in view, each with the depth of the scope that declares it.
    names: Map<&'a str, (Local, usize)>,
    /// `%f` of `.reg .f32 %f<320>`: index of the innermost one.
    prefixes: Map<&'a str, usize>,
    /// The families of the open scopes, in order.
    families: Vec<Family>,
    /// What each declaration of the open scopes hid, in order.
    hidden: Vec<Hidden<'a>>,
    /// For each open scope the length that `hidden` had at its beginning.
    open: Vec<usize>,
    /// How often a variable's name was declared so far.
    declared: Map<&'a str, u32>,
    /// Labels of the scope whose `{` is the token of that index: the tokens of their names.
    labels: Map<usize, Vec<usize>>,
    location: Option<Location>,
    /// Where the code at a place, as the last `.loc` of it said, was inlined at in the end; `None` for the function's own.
    sites: Map<Site, Option<(u32, u32)>>,
}

impl<'a> Scopes<'a> {
    fn depth(&self) -> usize {
        self.open.len()
    }

    /// A meaning for a name in the innermost scope; `false` where that scope has one already.
    fn declare(&mut self, name: &'a str, meaning: Local) -> bool {
        let depth = self.depth();
        let before = self.names.insert(name, (meaning, depth));
        let fresh = before.is_none_or(|(_, of)| of < depth)
            && !matches!(self.member(name), Some((_, of)) if of == depth);
        self.hidden.push(Hidden::Name(name, before));
        fresh
    }

    fn declare_family(&mut self, prefix: &'a str, first: u32, count: u32) -> bool {
        let depth = self.depth();
        let outer = self.prefixes.insert(prefix, self.families.len());
        let fresh =
            outer.and_then(|outer| self.families.get(outer)).is_none_or(|family| family.depth < depth);
        self.families.push(Family { first, count, depth, outer });
        self.hidden.push(Hidden::Family(prefix));
        fresh
    }

    /// Closes the innermost scope.
    fn close(&mut self) {
        let Some(length) = self.open.pop() else { return };
        while self.hidden.len() > length {
            match self.hidden.pop() {
                Some(Hidden::Name(name, Some(before))) => {
                    self.names.insert(name, before);
                }
                Some(Hidden::Name(name, None)) => {
                    self.names.remove(name);
                }
                Some(Hidden::Family(prefix)) => match self.families.pop().and_then(|family| family.outer) {
                    Some(outer) => {
                        self.prefixes.insert(prefix, outer);
                    }
                    None => {
                        self.prefixes.remove(prefix);
                    }
                },
                None => {}
            }
        }
    }

    /// The register that a family gives the name, and the depth of its scope.
    fn member(&self, name: &str) -> Option<(u32, usize)> {
        let bytes = name.as_bytes();
        let mut split = bytes.len();
        let mut found: Option<(u32, usize)> = None;
        // Of `%v12` the family may be `%v` or `%v1`. Ten digits are as many as a register's number can have.
        while split > 1 && bytes.len() - split < 10 && bytes[split - 1].is_ascii_digit() {
            split -= 1;
            let (prefix, digits) = name.split_at(split);
            if digits.len() > 1 && digits.starts_with('0') {
                continue;
            }
            let (Some(&innermost), Ok(number)) = (self.prefixes.get(prefix), digits.parse::<u32>()) else {
                continue;
            };
            let mut next = self.families.get(innermost);
            while let Some(family) = next {
                if number < family.count {
                    if found.is_none_or(|(_, depth)| depth < family.depth) {
                        found = Some((family.first + number, family.depth));
                    }
                    break;
                }
                next = family.outer.and_then(|outer| self.families.get(outer));
            }
        }
        found
    }

    fn find(&self, name: &str) -> Option<Local> {
        let member = if self.families.is_empty() { None } else { self.member(name) };
        match (self.names.get(name), member) {
            (Some(&(_, depth)), Some((register, of))) if of > depth => Some(Local::Register(register)),
            (Some(&(meaning, _)), _) => Some(meaning),
            (None, Some((register, _))) => Some(Local::Register(register)),
            (None, None) => None,
        }
    }
}

struct Parser<'a> {
    text: &'a str,
    tokens: &'a [Token],
    at: usize,
    module: Module,
    globals: Map<&'a str, Global>,
    /// Tokens of the names that initialisers mention, to be looked up when the whole module is read: tables name functions
    /// that follow.
    pending: Vec<usize>,
}

/// Special registers; those in the second list have components.
const SPECIALS: [&str; 26] = [
    "%laneid",
    "%warpid",
    "%nwarpid",
    "%smid",
    "%nsmid",
    "%gridid",
    "%is_explicit_cluster",
    "%cluster_ctarank",
    "%cluster_nctarank",
    "%lanemask_eq",
    "%lanemask_le",
    "%lanemask_lt",
    "%lanemask_ge",
    "%lanemask_gt",
    "%clock",
    "%clock_hi",
    "%clock64",
    "%globaltimer",
    "%globaltimer_lo",
    "%globaltimer_hi",
    "%total_smem_size",
    "%aggr_smem_size",
    "%dynamic_smem_size",
    "%current_graph_exec",
    "%reserved_shared_offset_begin",
    "%reserved_shared_offset_end",
];
const SPECIAL_VECTORS: [&str; 8] =
    ["%tid", "%ntid", "%ctaid", "%nctaid", "%clusterid", "%nclusterid", "%cluster_ctaid", "%cluster_nctaid"];

/// Whether this is a special register without components. `%pm0` and `%envreg31` are counted ones.
fn is_special(name: &str) -> bool {
    let counted = |prefix: &str| {
        name.strip_prefix(prefix).is_some_and(|rest| {
            let digits = rest.strip_suffix("_64").unwrap_or(rest);
            !digits.is_empty() && digits.len() <= 2 && digits.bytes().all(|byte| byte.is_ascii_digit())
        })
    };
    SPECIALS.contains(&name) || counted("%pm") || counted("%envreg") || counted("%reserved_shared_offset_")
}

fn space(word: &str) -> Option<Space> {
    Some(match word {
        "param" => Space::Param,
        "global" => Space::Global,
        "const" => Space::Const,
        "shared" => Space::Shared,
        "local" => Space::Local,
        _ => return None,
    })
}

impl Space {
    /// The word of PTX, dot and all.
    fn word(self) -> &'static str {
        match self {
            Space::Param => ".param",
            Space::Global => ".global",
            Space::Const => ".const",
            Space::Shared => ".shared",
            Space::Local => ".local",
        }
    }
}

/// What a variable's declaration says before its name.
struct Declaration {
    space: Space,
    align: Option<u64>,
    /// Elements of a vector, 1 without `.v2` and its like.
    lanes: u64,
    ty: Type,
}

// Tokens.
impl<'a> Parser<'a> {
    fn token(&self) -> Token {
        self.ahead(0)
    }

    /// The token `distance` behind the current one; past the end, the end.
    fn ahead(&self, distance: usize) -> Token {
        let last = Token { kind: Kind::End, start: 0, end: 0, line: 1 };
        let index = (self.at + distance).min(self.tokens.len().saturating_sub(1));
        self.tokens.get(index).copied().unwrap_or(last)
    }

    fn text_of(&self, token: Token) -> &'a str {
        self.text.get(token.start as usize..token.end as usize).unwrap_or("")
    }

    fn advance(&mut self) -> Token {
        let token = self.token();
        self.at += 1;
        token
    }

    fn is(&self, sign: u8) -> bool {
        self.token().kind == Kind::Sign(sign)
    }

    /// Steps over a sign if it is the next token.
    fn take(&mut self, sign: u8) -> bool {
        let found = self.is(sign);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, sign: u8) -> Result<(), ParseError> {
        if self.take(sign) {
            return Ok(());
        }
        Err(self.expected(&format!("`{}`", sign as char)))
    }

    fn expect_name(&mut self, what: &str) -> Result<(&'a str, Token), ParseError> {
        let token = self.token();
        if token.kind != Kind::Name {
            return Err(self.expected(what));
        }
        self.at += 1;
        Ok((self.text_of(token), token))
    }

    /// The next token's word if it is one, without a step.
    fn word(&self) -> Option<&'a str> {
        let token = self.token();
        (token.kind == Kind::Word).then(|| self.text_of(token))
    }

    /// An unsigned number of a directive: `.align 8`, `.maxntid 256`.
    fn expect_count(&mut self, what: &str) -> Result<u64, ParseError> {
        let token = self.token();
        if token.kind != Kind::Number {
            return Err(self.expected(what));
        }
        match self.number(token)? {
            Value::Integer { bits, .. } => {
                self.at += 1;
                Ok(bits)
            }
            _ => Err(self.expected(what)),
        }
    }

    fn expect_small(&mut self, what: &str) -> Result<u32, ParseError> {
        let token = self.token();
        let count = self.expect_count(what)?;
        u32::try_from(count).map_err(|_| self.error(token, format!("{count} does not fit 32 bits")))
    }

    fn error(&self, token: Token, message: String) -> ParseError {
        // The dot or the quote that the range leaves out.
        let before = u32::from(matches!(token.kind, Kind::Word | Kind::Text));
        let start = token.start.saturating_sub(before) as usize;
        ParseError { line: token.line, column: lexer::column(self.text, start), message }
    }

    /// The current token is not what should be there.
    fn expected(&self, what: &str) -> ParseError {
        let token = self.token();
        self.error(token, format!("expected {what}, found {}", self.describe(token)))
    }

    fn describe(&self, token: Token) -> String {
        let text = self.text_of(token);
        match token.kind {
            Kind::End => "the end of the text".to_string(),
            Kind::Word => format!("`.{text}`"),
            Kind::Text => format!("\"{text}\""),
            _ => format!("`{text}`"),
        }
    }

    fn number(&self, token: Token) -> Result<Value, ParseError> {
        expression::number(self.text_of(token)).map_err(|message| self.error(token, message))
    }

    /// Steps behind the bracket that closes the current one, whatever stands between.
    fn skip_balanced(&mut self, opening: u8, closing: u8) -> Result<(), ParseError> {
        let first = self.token();
        self.expect(opening)?;
        let mut depth = 1usize;
        while depth > 0 {
            match self.advance().kind {
                Kind::Sign(sign) if sign == opening => depth += 1,
                Kind::Sign(sign) if sign == closing => depth -= 1,
                Kind::End => {
                    return Err(self.error(first, format!("this `{}` is not closed", opening as char)));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Steps behind the next `;`.
    fn skip_statement(&mut self) -> Result<(), ParseError> {
        loop {
            match self.token().kind {
                Kind::End => return Err(self.expected("`;`")),
                Kind::Sign(b';') => {
                    self.at += 1;
                    return Ok(());
                }
                _ => self.at += 1,
            }
        }
    }
}

// Constant expressions.
impl Parser<'_> {
    /// Whether the current token begins a constant.
    fn begins_constant(&self) -> bool {
        match self.token().kind {
            Kind::Number | Kind::Sign(b'(' | b'-' | b'+' | b'~' | b'!') => true,
            Kind::Name => self.text_of(self.token()) == "WARP_SZ",
            _ => false,
        }
    }

    /// A whole expression, `?:` included.
    fn constant(&mut self) -> Result<Value, ParseError> {
        self.conditional(0)
    }

    fn integer(&mut self, what: &str) -> Result<u64, ParseError> {
        let token = self.token();
        if !self.begins_constant() {
            return Err(self.expected(what));
        }
        match self.constant()? {
            Value::Integer { bits, .. } => Ok(bits),
            _ => Err(self.error(token, format!("expected {what}, found a floating-point constant"))),
        }
    }

    fn conditional(&mut self, nested: usize) -> Result<Value, ParseError> {
        let token = self.token();
        let condition = self.binary(0, nested)?;
        if !self.take(b'?') {
            return Ok(condition);
        }
        self.check_nesting(nested)?;
        let then = self.conditional(nested + 1)?;
        self.expect(b':')?;
        let otherwise = self.conditional(nested + 1)?;
        let condition = condition.truth().map_err(|message| self.error(token, message))?;
        Ok(if condition { then } else { otherwise })
    }

    fn check_nesting(&self, nested: usize) -> Result<(), ParseError> {
        if nested < MOST_NESTED {
            return Ok(());
        }
        Err(self.error(self.token(), format!("nested deeper than {MOST_NESTED} levels")))
    }

    /// Operators that bind at least as closely as `least`.
    fn binary(&mut self, least: u8, nested: usize) -> Result<Value, ParseError> {
        self.check_nesting(nested)?;
        let mut left = self.unary(nested)?;
        loop {
            let token = self.token();
            let Some((operator, binding)) = expression::operator(token.kind) else { return Ok(left) };
            if binding < least {
                return Ok(left);
            }
            self.at += 1;
            let right = self.binary(binding + 1, nested + 1)?;
            left =
                expression::combine(operator, left, right).map_err(|message| self.error(token, message))?;
        }
    }

    fn unary(&mut self, nested: usize) -> Result<Value, ParseError> {
        self.check_nesting(nested)?;
        let token = self.token();
        match token.kind {
            Kind::Number => {
                self.at += 1;
                self.number(token)
            }
            Kind::Name if self.text_of(token) == "WARP_SZ" => {
                self.at += 1;
                Ok(Value::Integer { bits: 32, unsigned: false })
            }
            Kind::Sign(sign @ (b'-' | b'+' | b'~' | b'!')) => {
                self.at += 1;
                let value = self.unary(nested + 1)?;
                expression::apply(sign, value).map_err(|message| self.error(token, message))
            }
            Kind::Sign(b'(') => {
                self.at += 1;
                // A cast.
                if let Some(word @ ("s64" | "u64")) = self.word() {
                    self.at += 1;
                    self.expect(b')')?;
                    let value = self.unary(nested + 1)?;
                    return value.cast(word == "u64").map_err(|message| self.error(token, message));
                }
                let value = self.conditional(nested + 1)?;
                self.expect(b')')?;
                Ok(value)
            }
            _ => Err(self.expected("a constant")),
        }
    }

    /// What follows a name in `name+8`: nothing, or signed terms whose sum it is.
    fn offset(&mut self) -> Result<i64, ParseError> {
        let mut sum = 0u64;
        loop {
            let token = self.token();
            let negative = match token.kind {
                Kind::Sign(b'+') => false,
                Kind::Sign(b'-') => true,
                _ => return Ok(sum as i64),
            };
            self.at += 1;
            if !self.begins_constant() {
                return Err(self.expected("a constant offset"));
            }
            // One step above `+`, so that the loop adds the terms up from left to right.
            match self.binary(expression::ADDITIVE + 1, 0)? {
                Value::Integer { bits, .. } if negative => sum = sum.wrapping_sub(bits),
                Value::Integer { bits, .. } => sum = sum.wrapping_add(bits),
                _ => return Err(self.error(token, "an offset is an integer".to_string())),
            }
        }
    }
}

// The module's scope.
impl<'a> Parser<'a> {
    fn module(&mut self) -> Result<(), ParseError> {
        if self.word() != Some("version") {
            return Err(self.expected("`.version`"));
        }
        self.version()?;
        if self.word() != Some("target") {
            return Err(self.expected("`.target`"));
        }
        self.target()?;
        while self.token().kind != Kind::End {
            self.directive()?;
        }
        for index in std::mem::take(&mut self.pending) {
            let Some(&token) = self.tokens.get(index) else { continue };
            let name = self.text_of(token);
            if !self.globals.contains_key(name) {
                return Err(self.error(token, format!("unknown name `{name}`")));
            }
        }
        Ok(())
    }

    fn version(&mut self) -> Result<(), ParseError> {
        self.at += 1;
        let token = self.token();
        let parts = self
            .text_of(token)
            .split_once('.')
            .and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
        match parts {
            Some(parts) if token.kind == Kind::Number => self.module.version = parts,
            _ => return Err(self.expected("a version such as `9.0`")),
        }
        self.at += 1;
        Ok(())
    }

    /// `.target sm_75, texmode_independent, debug`
    fn target(&mut self) -> Result<(), ParseError> {
        self.at += 1;
        loop {
            let (option, token) = self.expect_name("a target such as `sm_75`")?;
            if let Some(architecture) = option.strip_prefix("sm_").or(option.strip_prefix("compute_")) {
                // `sm_90a` is a 90 with extras.
                let digits = architecture.trim_end_matches(|letter: char| letter.is_ascii_lowercase());
                self.module.target = digits.parse().map_err(|_| {
                    self.error(token, format!("expected a target such as `sm_75`, found `{option}`"))
                })?;
            }
            if !self.take(b',') {
                break;
            }
        }
        if self.module.target == 0 {
            return Err(self.expected("a target such as `sm_75`"));
        }
        Ok(())
    }

    /// One directive of the module's scope.
    fn directive(&mut self) -> Result<(), ParseError> {
        let token = self.token();
        let Some(mut word) = self.word() else {
            // Not part of the grammar, and yet harmless: `;` behind a function's body.
            if self.take(b';') {
                return Ok(());
            }
            return Err(self.expected("a directive such as `.visible` or `.global`"));
        };
        let mut external = false;
        while matches!(word, "visible" | "extern" | "weak" | "common") {
            external |= word == "extern";
            self.at += 1;
            word = self.word().ok_or_else(|| self.expected("`.entry`, `.func` or a state space"))?;
        }
        match word {
            "version" => self.version(),
            "target" => self.target(),
            "address_size" => {
                self.at += 1;
                let size = self.token();
                if self.expect_count("an address size")? != 64 {
                    return Err(self.error(size, "only addresses of 64 bits are supported".to_string()));
                }
                Ok(())
            }
            "file" => self.file(),
            "section" => {
                self.at += 1;
                while !self.is(b'{') {
                    if self.token().kind == Kind::End {
                        return Err(self.expected("`{`"));
                    }
                    self.at += 1;
                }
                self.skip_balanced(b'{', b'}')
            }
            "pragma" => self.skip_statement(),
            "entry" | "func" => self.function(word == "entry"),
            "global" | "const" | "shared" => self.global_variables(external),
            "tex" => Err(self.error(token, "texture references are not supported".to_string())),
            "alias" => Err(self.error(token, "`.alias` is not supported".to_string())),
            _ => Err(self.expected("a directive such as `.visible` or `.global`")),
        }
    }

    /// `.file 1 "a.cu"`, perhaps with a time and a size.
    fn file(&mut self) -> Result<(), ParseError> {
        self.at += 1;
        let index = self.expect_small("a file's index")?;
        let token = self.token();
        if token.kind != Kind::Text {
            return Err(self.expected("a file's name in quotes"));
        }
        self.at += 1;
        let mut name = String::new();
        let mut letters = self.text_of(token).chars();
        while let Some(letter) = letters.next() {
            match (letter, letters.as_str().chars().next()) {
                ('\\', Some(escaped @ ('\\' | '"'))) => {
                    name.push(escaped);
                    letters.next();
                }
                _ => name.push(letter),
            }
        }
        self.module.files.insert(index, name);
        while self.take(b',') {
            self.expect_count("a number")?;
        }
        Ok(())
    }

    fn global_variables(&mut self, external: bool) -> Result<(), ParseError> {
        let declaration = self.declaration()?;
        loop {
            let (name, token, variable) = self.declarator(&declaration, external)?;
            match self.globals.get(name).copied() {
                // A declaration and its definition, in either order.
                Some(Global::Variable(index)) if self.module.variables[index].external => {
                    self.module.variables[index] = variable;
                }
                Some(Global::Variable(_)) if external => {}
                Some(_) => return Err(self.error(token, format!("`{name}` is declared twice"))),
                None => {
                    self.globals.insert(name, Global::Variable(self.module.variables.len()));
                    self.module.variables.push(variable);
                }
            }
            if !self.take(b',') {
                return self.expect(b';');
            }
        }
    }
}

// Variables and their initialisers.
impl<'a> Parser<'a> {
    /// From the state space to the name: `.global .align 4 .v4 .f32`.
    fn declaration(&mut self) -> Result<Declaration, ParseError> {
        let Some(space) = self.word().and_then(space) else { return Err(self.expected("a state space")) };
        self.at += 1;
        let (mut align, mut lanes, mut ty) = (None, 1, None);
        // `.ptr .global .align 1` says what a parameter points to, and nothing of the parameter itself.
        let mut pointer = false;
        loop {
            let token = self.token();
            let Some(word) = self.word() else { break };
            self.at += 1;
            match word {
                "align" => {
                    let token = self.token();
                    let bytes = self.expect_count("an alignment")?;
                    if !bytes.is_power_of_two() {
                        return Err(self.error(token, format!("an alignment of {bytes} is no power of two")));
                    }
                    if !pointer {
                        align = Some(bytes);
                    }
                }
                "v2" => lanes = 2,
                "v4" => lanes = 4,
                "v8" => lanes = 8,
                "attribute" => self.skip_balanced(b'(', b')')?,
                "ptr" if space == Space::Param => pointer = true,
                "global" | "const" | "shared" | "local" | "param" if pointer => {}
                "texref" | "samplerref" | "surfref" => {
                    return Err(self.error(token, format!("`.{word}` is not supported")));
                }
                _ => match Type::parse(word) {
                    Some(Type::Pred) => {
                        return Err(self.error(token, "a `.pred` cannot be in memory".to_string()));
                    }
                    Some(found) => ty = Some(found),
                    None => return Err(self.error(token, format!("expected a type, found `.{word}`"))),
                },
            }
        }
        let Some(ty) = ty else { return Err(self.expected("a type")) };
        Ok(Declaration { space, align, lanes, ty })
    }

    /// A name, its dimensions and its initialiser.
    fn declarator(
        &mut self,
        of: &Declaration,
        external: bool,
    ) -> Result<(&'a str, Token, Variable), ParseError> {
        let (name, token) = self.expect_name("a variable's name")?;
        if self.is(b'<') {
            return Err(
                self.error(self.token(), "only registers can be declared as `name<count>`".to_string())
            );
        }
        // Outermost first; `None` for `[]`.
        let mut dimensions: Vec<Option<u64>> = Vec::new();
        while self.is(b'[') {
            let bracket = self.advance();
            if self.take(b']') {
                if !dimensions.is_empty() {
                    return Err(self.error(bracket, "only the first dimension can be left open".to_string()));
                }
                dimensions.push(None);
            } else {
                dimensions.push(Some(self.integer("an array's size")?));
                self.expect(b']')?;
            }
            if dimensions.len() > MOST_NESTED {
                return Err(self.error(bracket, format!("more than {MOST_NESTED} dimensions")));
            }
        }
        if of.lanes > 1 {
            dimensions.push(Some(of.lanes));
        }
        let mut size = Some(of.ty.size());
        for dimension in &dimensions {
            size = match (size, dimension) {
                (Some(bytes), Some(count)) => {
                    Some(bytes.checked_mul(*count).ok_or_else(|| self.too_large(token))?)
                }
                _ => None,
            };
        }
        let mut variable = Variable {
            name: name.to_string(),
            space: of.space,
            align: of.align.unwrap_or(of.ty.size() * of.lanes),
            ty: of.ty,
            size,
            initial: None,
            relocations: Vec::new(),
            external,
        };
        let equals = self.token();
        if self.take(b'=') {
            if !matches!(of.space, Space::Global | Space::Const) {
                let message = format!("a {} variable cannot have an initialiser", of.space.word());
                return Err(self.error(equals, message));
            }
            let mut initial = Initial { ty: of.ty, bytes: Vec::new(), relocations: Vec::new(), furthest: 0 };
            // Scalars in one element of each level: the last dimension's elements are single ones.
            let mut strides = vec![1u64; dimensions.len()];
            for level in (1..dimensions.len()).rev() {
                // Dimensions of zero leave no place for values, which is found when there is one.
                let count = dimensions[level].unwrap_or(1).max(1);
                strides[level - 1] =
                    strides[level].checked_mul(count).ok_or_else(|| self.too_large(token))?;
            }
            if self.is(b'{') {
                let elements = size.map(|bytes| bytes / of.ty.size());
                self.initialiser(&mut initial, 0, elements, &strides)?;
            } else {
                self.initial_value(&mut initial, 0)?;
            }
            if let (None, Some(stride)) = (size, strides.first()) {
                // `[]`: as many as the initialiser gives.
                let elements = initial.furthest.div_ceil(*stride).checked_mul(*stride);
                variable.size = Some(
                    elements
                        .and_then(|count| count.checked_mul(of.ty.size()))
                        .ok_or_else(|| self.too_large(token))?,
                );
            }
            variable.initial = Some(initial.bytes);
            variable.relocations = initial.relocations;
        }
        Ok((name, token, variable))
    }

    fn too_large(&self, name: Token) -> ParseError {
        self.error(name, format!("`{}` is larger than an address space", self.text_of(name)))
    }

    /// `{ .. }` from the scalar of index `first` on, of which there are `elements` (as many as are given, if `None`).
    /// `strides[0]` is the distance of its own elements where they are in braces themselves.
    fn initialiser(
        &mut self,
        initial: &mut Initial,
        first: u64,
        elements: Option<u64>,
        strides: &[u64],
    ) -> Result<(), ParseError> {
        self.expect(b'{')?;
        let mut index = first;
        while !self.is(b'}') {
            let token = self.token();
            if elements.is_some_and(|count| index - first >= count) {
                return Err(self.error(token, "more values than the variable has elements".to_string()));
            }
            if self.is(b'{') {
                let (stride, inner) = match strides {
                    [stride, inner @ ..] if !inner.is_empty() => (*stride, inner),
                    _ => return Err(self.expected("a value")),
                };
                if !(index - first).is_multiple_of(stride) {
                    return Err(self.error(token, "this `{` is in the middle of an element".to_string()));
                }
                self.initialiser(initial, index, Some(stride), inner)?;
                index = index.saturating_add(stride);
            } else {
                self.initial_value(initial, index)?;
                index = index.saturating_add(1);
            }
            initial.furthest = initial.furthest.max(index);
            if !self.take(b',') {
                break;
            }
        }
        self.expect(b'}')
    }

    /// One value of an initialiser, for the scalar of that index.
    fn initial_value(&mut self, initial: &mut Initial, index: u64) -> Result<(), ParseError> {
        let token = self.token();
        let size = initial.ty.size();
        let offset = index.saturating_mul(size);
        if offset.saturating_add(size) > MOST_INITIAL {
            return Err(self.error(token, "an initialiser of more than 64 MiB".to_string()));
        }
        if token.kind == Kind::Name && !self.begins_constant() {
            return self.initial_symbol(initial, offset);
        }
        if !self.begins_constant() {
            return Err(self.expected("a value"));
        }
        let value = self.constant()?;
        if self.is(b'(') {
            let message = "masks of addresses such as `0xFF(symbol)` are not supported".to_string();
            return Err(self.error(token, message));
        }
        let bits = value.bits(initial.ty).map_err(|message| self.error(token, message))?;
        initial.write(offset, &bits.to_le_bytes()[..size as usize]);
        Ok(())
    }

    /// `symbol`, `symbol+8`, `generic(symbol)+8`
    fn initial_symbol(&mut self, initial: &mut Initial, offset: u64) -> Result<(), ParseError> {
        let (mut name, token) = self.expect_name("a value")?;
        let mut index = self.at - 1;
        let generic = name == "generic" && self.take(b'(');
        if generic {
            index = self.at;
            name = self.expect_name("a variable's name")?.0;
            self.expect(b')')?;
        }
        let addend = self.offset()?;
        if initial.ty.size() != 8 {
            return Err(self.error(token, format!("the address of `{name}` needs an element of 8 bytes")));
        }
        self.pending.push(index);
        initial.relocations.push(Relocation { offset, symbol: name.to_string(), addend, generic });
        initial.write(offset, &[0; 8]);
        Ok(())
    }
}

/// An initialiser's bytes as far as they are read.
struct Initial {
    ty: Type,
    bytes: Vec<u8>,
    relocations: Vec<Relocation>,
    /// Scalars that it reaches.
    furthest: u64,
}

impl Initial {
    fn write(&mut self, offset: u64, value: &[u8]) {
        let offset = offset as usize;
        let end = offset + value.len();
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        self.bytes[offset..end].copy_from_slice(value);
    }
}

// Functions.
impl<'a> Parser<'a> {
    fn function(&mut self, entry: bool) -> Result<(), ParseError> {
        self.at += 1;
        let mut function = Function { entry, ..Function::default() };
        let mut scopes = Scopes::default();
        while self.word() == Some("attribute") {
            self.at += 1;
            self.skip_balanced(b'(', b')')?;
        }
        if !entry && self.is(b'(') {
            function.returns = self.parameters(&mut scopes, Local::Return)?;
        }
        let (name, token) = self.expect_name("a function's name")?;
        function.name = name.to_string();
        if self.is(b'(') {
            function.parameters = self.parameters(&mut scopes, Local::Parameter)?;
        }
        self.function_directives(&mut function)?;
        // The name is known within the body: functions call themselves.
        let index = match self.globals.get(name).copied() {
            Some(Global::Function(index)) => index,
            Some(Global::Variable(_)) => return Err(self.error(token, format!("`{name}` is declared twice"))),
            None => {
                let index = self.module.functions.len();
                self.globals.insert(name, Global::Function(index));
                self.module.functions.push(Function::default());
                index
            }
        };
        if self.take(b';') {
            // Once more after its definition, it says nothing new.
            if self.module.functions[index].body.is_none() {
                self.module.functions[index] = function;
            }
            return Ok(());
        }
        if !self.is(b'{') {
            return Err(self.expected("`{`, `;` or a directive such as `.maxntid`"));
        }
        if self.module.functions[index].body.is_some() {
            return Err(self.error(token, format!("`{name}` is defined twice")));
        }
        let body = self.body(&mut function, &mut scopes)?;
        function.body = Some(body);
        self.module.functions[index] = function;
        Ok(())
    }

    /// `( .param .u64 a, .param .align 8 .b8 b[24] )`
    fn parameters(
        &mut self,
        scopes: &mut Scopes<'a>,
        meaning: fn(usize) -> Local,
    ) -> Result<Vec<Variable>, ParseError> {
        self.expect(b'(')?;
        let mut parameters = Vec::new();
        while !self.is(b')') {
            let token = self.token();
            match self.word() {
                Some("param") => {}
                Some("reg") => {
                    let message = "parameters in registers are not supported".to_string();
                    return Err(self.error(token, message));
                }
                _ => return Err(self.expected("`.param`")),
            }
            let declaration = self.declaration()?;
            let (name, token, variable) = self.declarator(&declaration, false)?;
            // A declaration may leave every name out by `_`.
            if name != "_" && !scopes.declare(name, meaning(parameters.len())) {
                return Err(self.error(token, format!("`{name}` is declared twice")));
            }
            parameters.push(variable);
            if !self.take(b',') {
                break;
            }
        }
        self.expect(b')')?;
        Ok(parameters)
    }

    /// `.maxntid 256, 1, 1 .minnctapersm 2`, between the parameters and the body.
    fn function_directives(&mut self, function: &mut Function) -> Result<(), ParseError> {
        while let Some(word) = self.word() {
            let token = self.advance();
            match word {
                "maxntid" => function.max_threads = Some(self.dimensions()?),
                "reqntid" => function.required_threads = Some(self.dimensions()?),
                "maxnreg" => function.max_registers = Some(self.expect_small("a number of registers")?),
                // Hints on how to compile, and on clusters, which this target does not have.
                "minnctapersm"
                | "maxnctapersm"
                | "maxclusterrank"
                | "abi_preserve"
                | "abi_preserve_control" => {
                    self.expect_small("a number")?;
                }
                "reqnctapercluster" => {
                    self.dimensions()?;
                }
                "noreturn" | "explicitcluster" | "blocksareclusters" | "unified" => {}
                "attribute" => self.skip_balanced(b'(', b')')?,
                "pragma" => self.skip_statement()?,
                _ => {
                    let message =
                        format!("expected `{{`, `;` or a directive such as `.maxntid`, found `.{word}`");
                    return Err(self.error(token, message));
                }
            }
        }
        Ok(())
    }

    fn dimensions(&mut self) -> Result<[u32; 3], ParseError> {
        let mut dimensions = [1; 3];
        for (index, dimension) in dimensions.iter_mut().enumerate() {
            if index > 0 && !self.take(b',') {
                break;
            }
            *dimension = self.expect_small("a number of threads")?;
        }
        Ok(dimensions)
    }

    /// Finds the labels of every scope of a body, whose `{` is the current token.
    fn collect_labels(&self, scopes: &mut Scopes<'a>) {
        let mut open: Vec<usize> = Vec::new();
        let mut index = self.at;
        while let Some(token) = self.tokens.get(index) {
            match token.kind {
                Kind::Sign(b'{') => open.push(index),
                Kind::Sign(b'}') => {
                    open.pop();
                    if open.is_empty() {
                        return;
                    }
                }
                // No other name has a colon behind it, but for this one in the middle of `?:`.
                Kind::Name
                    if self.tokens.get(index + 1).is_some_and(|next| next.kind == Kind::Sign(b':'))
                        && self.text_of(*token) != "WARP_SZ" =>
                {
                    if let Some(&scope) = open.last() {
                        scopes.labels.entry(scope).or_default().push(index);
                    }
                }
                _ => {}
            }
            index += 1;
        }
    }

    /// Opens a scope at a `{`, which it steps over, and declares the labels in it.
    fn open_scope(&mut self, function: &mut Function, scopes: &mut Scopes<'a>) -> Result<(), ParseError> {
        let brace = self.at;
        let token = self.token();
        self.expect(b'{')?;
        if scopes.depth() >= MOST_NESTED {
            return Err(self.error(token, format!("scopes nested deeper than {MOST_NESTED} levels")));
        }
        scopes.open.push(scopes.hidden.len());
        for index in scopes.labels.remove(&brace).unwrap_or_default() {
            let Some(&token) = self.tokens.get(index) else { continue };
            let name = self.text_of(token);
            let follows = self.tokens.get(index + 2).filter(|next| next.kind == Kind::Word);
            let meaning = match follows.map(|next| self.text_of(*next)) {
                Some("callprototype" | "calltargets") => Local::Prototype,
                _ => {
                    function.labels.push(name.to_string());
                    Local::Label((function.labels.len() - 1) as u32)
                }
            };
            if !scopes.declare(name, meaning) {
                return Err(self.error(token, format!("label `{name}` is declared twice in its scope")));
            }
        }
        Ok(())
    }

    fn body(
        &mut self,
        function: &mut Function,
        scopes: &mut Scopes<'a>,
    ) -> Result<Vec<Statement>, ParseError> {
        let first = self.token();
        self.collect_labels(scopes);
        let mut statements = Vec::new();
        self.open_scope(function, scopes)?;
        while scopes.depth() > 0 {
            let token = self.token();
            match token.kind {
                Kind::Sign(b'{') => self.open_scope(function, scopes)?,
                Kind::Sign(b'}') => {
                    self.at += 1;
                    scopes.close();
                }
                // An empty statement: inline assembly often ends with one `;` too many.
                Kind::Sign(b';') => self.at += 1,
                Kind::Name if self.ahead(1).kind == Kind::Sign(b':') => {
                    self.label(scopes, &mut statements)?
                }
                Kind::Name | Kind::Sign(b'@') => {
                    let instruction = self.instruction(function, scopes)?;
                    statements.push(Statement::Instruction(instruction));
                }
                Kind::Word => self.body_directive(function, scopes)?,
                Kind::End => {
                    return Err(self.error(first, format!("the body of `{}` is not closed", function.name)));
                }
                _ => return Err(self.expected("an instruction, a label or a directive")),
            }
        }
        Ok(statements)
    }

    /// `name:`, with what belongs to it.
    fn label(&mut self, scopes: &Scopes<'a>, statements: &mut Vec<Statement>) -> Result<(), ParseError> {
        let token = self.advance();
        let name = self.text_of(token);
        self.expect(b':')?;
        let label = match scopes.find(name) {
            Some(Local::Label(label)) => label,
            Some(Local::Prototype) => return self.skip_statement(),
            _ => return Err(self.error(token, format!("`{name}` is no label's name here"))),
        };
        if self.word() != Some("branchtargets") {
            statements.push(Statement::Label(label));
            return Ok(());
        }
        self.at += 1;
        let mut targets = Vec::new();
        loop {
            let (name, token) = self.expect_name("a label")?;
            match scopes.find(name) {
                Some(Local::Label(target)) => targets.push(target),
                _ => return Err(self.error(token, format!("unknown label `{name}`"))),
            }
            if !self.take(b',') {
                break;
            }
        }
        statements.push(Statement::BranchTargets(label, targets));
        self.expect(b';')
    }

    fn body_directive(&mut self, function: &mut Function, scopes: &mut Scopes<'a>) -> Result<(), ParseError> {
        let mut external = false;
        while let Some(word @ ("visible" | "extern" | "weak")) = self.word() {
            external |= word == "extern";
            self.at += 1;
        }
        let token = self.token();
        match self.word() {
            Some("loc") => self.loc(scopes),
            Some("reg") => self.registers(function, scopes),
            Some("local" | "shared" | "param") => self.local_variables(function, scopes, external),
            Some("pragma") => self.skip_statement(),
            Some("file") => self.file(),
            Some(word @ ("global" | "const")) => {
                let message = format!("`.{word}` variables within a function are not supported");
                Err(self.error(token, message))
            }
            Some(word @ ("branchtargets" | "callprototype" | "calltargets")) => {
                Err(self.error(token, format!("a label must stand before `.{word}`")))
            }
            _ => Err(self.expected("an instruction, a label or a directive")),
        }
    }

    /// `.loc 1 24 44, function_name $L__info_string0, inlined_at 1 7 3`; it ends without a sign.
    fn loc(&mut self, scopes: &mut Scopes<'a>) -> Result<(), ParseError> {
        self.at += 1;
        let place = self.site()?;
        let mut caller = None;
        while self.take(b',') {
            let (attribute, token) = self.expect_name("`function_name` or `inlined_at`")?;
            match attribute {
                "function_name" => {
                    self.expect_name("a label")?;
                    self.offset()?;
                }
                "inlined_at" => caller = Some(self.site()?),
                _ => {
                    let message = format!("expected `function_name` or `inlined_at`, found `{attribute}`");
                    return Err(self.error(token, message));
                }
            }
        }
        // A call site that was inlined itself had a `.loc` of its own just before.
        let inlined_at =
            caller.map(|site| scopes.sites.get(&site).copied().flatten().unwrap_or((site.0, site.1)));
        scopes.sites.insert(place, inlined_at);
        // Line 0 is before instructions that nvcc made up itself: they are for the line before.
        if place.1 != 0 {
            scopes.location = Some(Location { file: place.0, line: place.1, inlined_at });
        }
        Ok(())
    }

    fn site(&mut self) -> Result<Site, ParseError> {
        let file = self.expect_small("a file's index")?;
        let line = self.expect_small("a line")?;
        let column = self.expect_small("a column")?;
        Ok((file, line, column))
    }

    /// `.reg .f32 %f<320>, x, y;`
    fn registers(&mut self, function: &mut Function, scopes: &mut Scopes<'a>) -> Result<(), ParseError> {
        self.at += 1;
        let token = self.token();
        let ty = match self.word() {
            Some("v2" | "v4" | "v8") => {
                return Err(self.error(token, "vectors as registers are not supported".to_string()));
            }
            Some(word) => Type::parse(word),
            None => None,
        };
        let Some(ty) = ty else { return Err(self.expected("a register's type")) };
        self.at += 1;
        loop {
            let (name, token) = self.expect_name("a register's name")?;
            let first = function.registers.len();
            let fresh = if self.take(b'<') {
                let count = self.expect_count("a number of registers")?;
                self.expect(b'>')?;
                if count > (MOST_REGISTERS - first) as u64 {
                    return Err(self.error(token, format!("more than {MOST_REGISTERS} registers")));
                }
                function
                    .registers
                    .extend((0..count).map(|number| Register { name: format!("{name}{number}"), ty }));
                scopes.declare_family(name, first as u32, count as u32)
            } else {
                if first >= MOST_REGISTERS {
                    return Err(self.error(token, format!("more than {MOST_REGISTERS} registers")));
                }
                function.registers.push(Register { name: name.to_string(), ty });
                scopes.declare(name, Local::Register(first as u32))
            };
            if !fresh {
                return Err(self.error(token, format!("register `{name}` is declared twice in its scope")));
            }
            if !self.take(b',') {
                return self.expect(b';');
            }
        }
    }

    /// `.local`, `.shared` and `.param` variables of a body.
    fn local_variables(
        &mut self,
        function: &mut Function,
        scopes: &mut Scopes<'a>,
        external: bool,
    ) -> Result<(), ParseError> {
        let declaration = self.declaration()?;
        loop {
            let (name, token, mut variable) = self.declarator(&declaration, external)?;
            // A name that is taken outside the body counts as its first use.
            let taken = |scopes: &Scopes| scopes.names.contains_key(name) || self.globals.contains_key(name);
            let before = match scopes.declared.get(name) {
                Some(&before) => before,
                None => u32::from(taken(scopes)),
            };
            scopes.declared.insert(name, before + 1);
            if before > 0 {
                variable.name = format!("{name}@{}", before + 1);
            }
            if !scopes.declare(name, Local::Variable(function.variables.len())) {
                return Err(self.error(token, format!("`{name}` is declared twice in its scope")));
            }
            function.variables.push(variable);
            if !self.take(b',') {
                return self.expect(b';');
            }
        }
    }
}

// Instructions.
impl<'a> Parser<'a> {
    fn instruction(&mut self, function: &Function, scopes: &Scopes<'a>) -> Result<Instruction, ParseError> {
        let mut predicate = None;
        if self.take(b'@') {
            let negated = self.take(b'!');
            let (name, token) = self.expect_name("a predicate")?;
            match scopes.find(name) {
                Some(Local::Register(register)) => predicate = Some((register, negated)),
                Some(_) => return Err(self.error(token, format!("`{name}` is no predicate"))),
                None => return Err(self.unknown(name, token)),
            }
        }
        let (name, token) = self.expect_name("an instruction")?;
        let mut words = 1;
        while self.ahead(words - 1).kind == Kind::Word {
            words += 1;
        }
        let mut opcode = Vec::with_capacity(words);
        opcode.push(name.to_string());
        while let Some(word) = self.word() {
            opcode.push(word.to_string());
            self.at += 1;
        }
        let mut operands = Vec::new();
        if name == "call" {
            self.call(function, scopes, &mut operands)?;
        } else if !self.is(b';') {
            operands.reserve_exact(4);
            loop {
                operands.push(self.operand(function, scopes)?);
                if !self.take(b',') {
                    break;
                }
            }
        }
        if !self.take(b';') {
            return Err(self.expected(if operands.is_empty() { "an operand or `;`" } else { "`,` or `;`" }));
        }
        Ok(Instruction { predicate, opcode, operands, location: scopes.location, line: token.line })
    }

    fn unknown(&self, name: &str, token: Token) -> ParseError {
        let what = if name.starts_with('%') { "register" } else { "name" };
        self.error(token, format!("unknown {what} `{name}`"))
    }

    fn find(&self, name: &str, scopes: &Scopes<'a>) -> Option<Meaning> {
        match scopes.find(name) {
            Some(local) => Some(Meaning::Local(local)),
            None => self.globals.get(name).copied().map(Meaning::Global),
        }
    }

    /// The name that a variable has in the tree; `None` for what is no variable.
    fn symbol(&self, meaning: Meaning, function: &Function) -> Option<String> {
        let variable = match meaning {
            Meaning::Local(Local::Variable(index)) => function.variables.get(index),
            Meaning::Local(Local::Parameter(index)) => function.parameters.get(index),
            Meaning::Local(Local::Return(index)) => function.returns.get(index),
            Meaning::Local(Local::Register(_) | Local::Label(_) | Local::Prototype) => None,
            Meaning::Global(Global::Variable(index)) => self.module.variables.get(index),
            Meaning::Global(Global::Function(index)) => {
                // The function that is being read is not in the module yet, only its place.
                let known = self.module.functions.get(index).filter(|known| !known.name.is_empty());
                return Some(known.unwrap_or(function).name.clone());
            }
        };
        variable.map(|variable| variable.name.clone())
    }

    fn operand(&mut self, function: &Function, scopes: &Scopes<'a>) -> Result<Operand, ParseError> {
        let token = self.token();
        match token.kind {
            Kind::Name => self.named_operand(function, scopes),
            Kind::Sign(b'[') => self.address(function, scopes),
            Kind::Sign(b'{') => {
                self.at += 1;
                let mut elements = Vec::new();
                loop {
                    if self.is(b'{') || self.is(b'[') {
                        return Err(self.expected("a vector's element"));
                    }
                    elements.push(self.operand(function, scopes)?);
                    if !self.take(b',') {
                        break;
                    }
                }
                self.expect(b'}')?;
                Ok(Operand::Vector(elements))
            }
            Kind::Sign(b'!')
                if self.ahead(1).kind == Kind::Name && self.text_of(self.ahead(1)) != "WARP_SZ" =>
            {
                self.at += 1;
                let (name, token) = self.expect_name("a predicate")?;
                match scopes.find(name) {
                    Some(Local::Register(register)) => Ok(Operand::NotRegister(register)),
                    Some(_) => Err(self.error(token, format!("`{name}` is no predicate"))),
                    None => Err(self.unknown(name, token)),
                }
            }
            _ if self.begins_constant() => self.constant_operand(),
            _ => Err(self.expected("an operand")),
        }
    }

    fn constant_operand(&mut self) -> Result<Operand, ParseError> {
        Ok(match self.constant()? {
            Value::Integer { bits, .. } => Operand::Integer(bits),
            Value::Float(bits) => Operand::Float(bits),
            Value::Double(value) => Operand::Double(value.to_bits()),
        })
    }

    /// An operand that begins with a name.
    fn named_operand(&mut self, function: &Function, scopes: &Scopes<'a>) -> Result<Operand, ParseError> {
        let token = self.token();
        let name = self.text_of(token);
        let operand = if name == "_" {
            self.at += 1;
            Operand::Sink
        } else {
            match self.find(name, scopes) {
                Some(Meaning::Local(Local::Register(register))) => {
                    self.at += 1;
                    if let Some(word) = self.word() {
                        let message =
                            format!("selectors of a register's parts such as `.{word}` are not supported");
                        return Err(self.error(self.token(), message));
                    }
                    Operand::Register(register)
                }
                Some(Meaning::Local(Local::Label(label))) => {
                    self.at += 1;
                    return Ok(Operand::Label(label));
                }
                Some(Meaning::Local(Local::Prototype)) => {
                    return Err(self.error(token, format!("`{name}` is the name of a prototype")));
                }
                Some(meaning) => {
                    self.at += 1;
                    let Some(symbol) = self.symbol(meaning, function) else {
                        return Err(self.unknown(name, token));
                    };
                    if self.is(b'[') {
                        return Err(self.subscript());
                    }
                    return Ok(Operand::Symbol(symbol, self.offset()?));
                }
                None if name == "WARP_SZ" => return self.constant_operand(),
                None => return self.special(name, token),
            }
        };
        if !self.take(b'|') {
            return Ok(operand);
        }
        let (name, token) = self.expect_name("a register")?;
        let second = match scopes.find(name) {
            Some(Local::Register(register)) => Operand::Register(register),
            None if name == "_" => Operand::Sink,
            Some(_) => return Err(self.error(token, format!("`{name}` is no register"))),
            None => return Err(self.unknown(name, token)),
        };
        Ok(Operand::Pair(Box::new(operand), Box::new(second)))
    }

    fn subscript(&self) -> ParseError {
        self.error(self.token(), "subscripts of arrays are not supported".to_string())
    }

    /// `%tid.x`, `%laneid`
    fn special(&mut self, name: &str, token: Token) -> Result<Operand, ParseError> {
        let vector = SPECIAL_VECTORS.contains(&name);
        if !vector && !is_special(name) {
            return Err(self.unknown(name, token));
        }
        self.at += 1;
        match self.word() {
            Some(component @ ("x" | "y" | "z" | "w")) if vector => {
                self.at += 1;
                Ok(Operand::Special(format!("{name}.{component}")))
            }
            Some(word) => Err(self.error(self.token(), format!("`{name}` has no component `.{word}`"))),
            None => Ok(Operand::Special(name.to_string())),
        }
    }

    /// `[%rd1+16]`, `[buffer]`, `[64]`
    fn address(&mut self, function: &Function, scopes: &Scopes<'a>) -> Result<Operand, ParseError> {
        self.expect(b'[')?;
        let token = self.token();
        let (base, offset) = if token.kind == Kind::Name && !self.begins_constant() {
            self.at += 1;
            let name = self.text_of(token);
            let base = match self.find(name, scopes) {
                Some(Meaning::Local(Local::Register(register))) => Base::Register(register),
                Some(meaning) => match self.symbol(meaning, function) {
                    Some(symbol) => Base::Symbol(symbol),
                    None => return Err(self.error(token, format!("the label `{name}` is no address"))),
                },
                None => return Err(self.unknown(name, token)),
            };
            if self.is(b'[') {
                return Err(self.subscript());
            }
            (base, self.offset()?)
        } else {
            (Base::Absolute, self.integer("an address")? as i64)
        };
        if self.is(b',') {
            return Err(self.error(self.token(), "the operands of textures are not supported".to_string()));
        }
        self.expect(b']')?;
        Ok(Operand::Address(base, offset))
    }

    /// `call (ret), f, (a, b), prototype`: always three operands in the tree.
    fn call(
        &mut self,
        function: &Function,
        scopes: &Scopes<'a>,
        operands: &mut Vec<Operand>,
    ) -> Result<(), ParseError> {
        operands.reserve_exact(3);
        let mut returns = Vec::new();
        if self.is(b'(') {
            returns = self.arguments(function, scopes)?;
            self.expect(b',')?;
        }
        operands.push(Operand::Arguments(returns));
        let (name, token) = self.expect_name("a function")?;
        operands.push(match self.find(name, scopes) {
            Some(Meaning::Local(Local::Register(register))) => Operand::Register(register),
            Some(Meaning::Global(Global::Function(_))) => Operand::Function(name.to_string()),
            Some(_) => return Err(self.error(token, format!("`{name}` is no function"))),
            None if name.starts_with('%') => return Err(self.unknown(name, token)),
            None => return Err(self.error(token, format!("unknown function `{name}`"))),
        });
        let mut arguments = Vec::new();
        let mut comma = self.take(b',');
        if comma && self.is(b'(') {
            arguments = self.arguments(function, scopes)?;
            comma = self.take(b',');
        }
        operands.push(Operand::Arguments(arguments));
        if comma {
            // What an indirect call may call.
            let (name, token) = self.expect_name("a prototype")?;
            match self.find(name, scopes) {
                Some(Meaning::Local(Local::Prototype) | Meaning::Global(_)) => {}
                _ => return Err(self.error(token, format!("unknown prototype `{name}`"))),
            }
        }
        Ok(())
    }

    fn arguments(&mut self, function: &Function, scopes: &Scopes<'a>) -> Result<Vec<Operand>, ParseError> {
        self.expect(b'(')?;
        let mut arguments = Vec::new();
        while !self.is(b')') {
            arguments.push(self.operand(function, scopes)?);
            if !self.take(b',') {
                break;
            }
        }
        self.expect(b')')?;
        Ok(arguments)
    }
}
