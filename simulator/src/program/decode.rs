//! From the tree of a kernel to a [`Program`].

use super::alu::{self, Isa, Kind, Lanewise, Modifiers};
use super::flow::{self, Uses};
use super::{
    Access, AccessSpace, Action, Atomic, AtomicKind, Barrier, Class, LOCAL_START, LOCAL_WINDOW, Line,
    LocalVariable, Merge, Operation, Plane, Program, Reduction, SHARED_STRIDE, SHARED_WINDOW, SharedArray,
    Shuffle, Special, SystemCall, Tensor, Vote,
};
use crate::machine::registers::{FALSE, NEGATE, TRUE};
use crate::ptx::{self, Base, Operand, Space, Statement, Type};
use std::collections::HashMap;
use std::sync::Arc;

/// Addresses of a module's variables in global memory.
pub type Addresses = HashMap<String, u64>;

/// Deepest chain of calls that is put in place of them.
const DEEPEST_CALL: usize = 64;

/// Makes a kernel ready to run. The error says what is not modelled, and where.
pub fn decode(
    module: &ptx::Module,
    kernel: &ptx::Function,
    addresses: &Addresses,
    text: Arc<str>,
    isa: Isa,
) -> Result<Program, String> {
    let mut builder = Builder::new(module, kernel, addresses, text, isa)?;
    builder.inline(kernel, HashMap::new(), 0).map_err(|e| format!("kernel `{}`: {e}", kernel.name))?;
    builder.finish()
}

/// A variable of a function: what its name stands for.
#[derive(Clone, Copy)]
enum Place {
    /// Offset in the kernel's parameters.
    Parameter(u64),
    /// Address in local memory.
    Local(u64),
    /// Address in shared memory.
    Shared(u64),
}

/// A function that is being put in place of a call.
struct Frame<'a> {
    /// Number of its first register.
    registers: u32,
    /// Number of its first label.
    labels: u32,
    places: HashMap<&'a str, Place>,
    /// Label behind the call; `None` in the kernel itself, where `ret` ends the thread.
    after: Option<u32>,
}

struct Builder<'a> {
    module: &'a ptx::Module,
    addresses: &'a Addresses,
    isa: Isa,
    program: Program,
    uses: Vec<Uses>,
    /// Type, plane or predicate index, and name of each register.
    registers: Vec<(Type, u32, String)>,
    /// Where each label is, once it is known.
    labels: Vec<Option<u32>>,
    tables: HashMap<u32, u32>,
    constants: HashMap<(u64, bool), Plane>,
    specials: HashMap<Special, Plane>,
    lines: HashMap<Line, u16>,
    shared: HashMap<String, u64>,
    /// Bytes of static shared memory as a card packs it.
    packed: u64,
    dynamic: Option<String>,
    local: u64,
    /// Predicate that holds the carry of `add.cc`; its register number.
    carry: Option<u32>,
    stack: Vec<&'a str>,
    narrow_sink: Option<Plane>,
    wide_sink: Option<Plane>,
}

type Result<T, E = String> = std::result::Result<T, E>;

/// Bytes that `value` needs to be a multiple of `align`.
fn round_up(value: u64, align: u64) -> u64 {
    value.div_ceil(align.max(1)) * align.max(1)
}

impl<'a> Builder<'a> {
    fn new(
        module: &'a ptx::Module,
        kernel: &'a ptx::Function,
        addresses: &'a Addresses,
        text: Arc<str>,
        isa: Isa,
    ) -> Result<Builder<'a>> {
        let mut parameters = Vec::new();
        let mut end = 0;
        for parameter in &kernel.parameters {
            let size = parameter.size.ok_or_else(|| format!("parameter `{}` has no size", parameter.name))?;
            let offset = round_up(end, parameter.align);
            parameters.push((offset, size));
            end = offset + size;
        }
        let program = Program {
            name: kernel.name.clone(),
            code: Vec::new(),
            ptx_lines: Vec::new(),
            lines: Vec::new(),
            files: module.files.clone(),
            text,
            planes: 0,
            predicates: FALSE + 1,
            constants: Vec::new(),
            specials: Vec::new(),
            accesses: Vec::new(),
            tensors: Vec::new(),
            tables: Vec::new(),
            calls: Vec::new(),
            tracking: HashMap::new(),
            tracked: Vec::new(),
            shared: Vec::new(),
            dynamic_shared: None,
            static_shared: 0,
            local: 0,
            local_variables: Vec::new(),
            parameters,
            parameter_bytes: end,
            max_threads: kernel.max_threads,
            required_threads: kernel.required_threads,
            max_registers: kernel.max_registers,
            shared_granule: 4,
            global_granule: 4,
            fenced: false,
            fenced_block: false,
        };
        Ok(Builder {
            module,
            addresses,
            isa,
            program,
            uses: Vec::new(),
            registers: Vec::new(),
            labels: Vec::new(),
            tables: HashMap::new(),
            constants: HashMap::new(),
            specials: HashMap::new(),
            lines: HashMap::new(),
            shared: HashMap::new(),
            packed: 0,
            dynamic: None,
            local: LOCAL_START,
            carry: None,
            stack: Vec::new(),
            narrow_sink: None,
            wide_sink: None,
        })
    }

    fn plane(&mut self, wide: bool) -> Plane {
        let plane = self.program.planes;
        self.program.planes += 1 + wide as u32;
        plane
    }

    fn constant(&mut self, bits: u64, wide: bool) -> Plane {
        let bits = if wide { bits } else { bits as u32 as u64 };
        if let Some(plane) = self.constants.get(&(bits, wide)) {
            return *plane;
        }
        let plane = self.plane(wide);
        self.constants.insert((bits, wide), plane);
        self.program.constants.push((plane, bits, wide));
        plane
    }

    fn special(&mut self, special: Special) -> Plane {
        if let Some(plane) = self.specials.get(&special) {
            return *plane;
        }
        let plane = self.plane(false);
        self.specials.insert(special, plane);
        self.program.specials.push((plane, special));
        plane
    }

    fn sink(&mut self, wide: bool) -> Plane {
        let known = if wide { self.wide_sink } else { self.narrow_sink };
        if let Some(plane) = known {
            return plane;
        }
        let plane = self.plane(wide);
        if wide {
            self.wide_sink = Some(plane)
        } else {
            self.narrow_sink = Some(plane)
        }
        plane
    }

    /// Puts a function's instructions here. `bound` places its parameters.
    fn inline(
        &mut self,
        function: &'a ptx::Function,
        bound: HashMap<&'a str, Place>,
        depth: usize,
    ) -> Result<()> {
        if depth > DEEPEST_CALL || self.stack.contains(&function.name.as_str()) {
            return Err(format!("`{}` calls itself: recursion is not modelled", function.name));
        }
        let Some(body) = &function.body else {
            return Err(format!(
                "function `{}` has no body, and is none that is modelled (vprintf, __assertfail)",
                function.name
            ));
        };
        self.stack.push(&function.name);
        let first = self.registers.len() as u32;
        for register in &function.registers {
            let index = match register.ty {
                Type::Pred => {
                    self.program.predicates += 1;
                    self.program.predicates - 1
                }
                Type::B128 => {
                    return Err(format!(
                        "register {}: registers of 128 bits are not modelled",
                        register.name
                    ));
                }
                ty => self.plane(ty.size() == 8),
            };
            self.registers.push((register.ty, index, register.name.clone()));
        }
        let labels = self.labels.len() as u32;
        self.labels.resize(self.labels.len() + function.labels.len(), None);
        let after = (depth > 0).then(|| {
            self.labels.push(None);
            self.labels.len() as u32 - 1
        });
        let mut places = bound;
        if function.entry {
            for (variable, (offset, _)) in function.parameters.iter().zip(&self.program.parameters) {
                places.insert(&variable.name, Place::Parameter(*offset));
            }
        }
        for variable in &function.variables {
            let place = match variable.space {
                Space::Local | Space::Param => {
                    let size =
                        variable.size.ok_or_else(|| format!("variable `{}` has no size", variable.name))?;
                    let address = round_up(self.local, variable.align);
                    // A gap between variables, so that running over the end of one is found.
                    self.local = address + size + 16;
                    self.program.local_variables.push(LocalVariable { address, bytes: size });
                    Place::Local(address)
                }
                Space::Shared => Place::Shared(self.shared_array(variable)),
                _ => {
                    return Err(format!(
                        "variable `{}`: a function's variables may be local, shared or param",
                        variable.name
                    ));
                }
            };
            places.insert(&variable.name, place);
        }
        let frame = Frame { registers: first, labels, places, after };
        for statement in body {
            if let Statement::BranchTargets(name, targets) = statement {
                self.tables.insert(labels + name, self.program.tables.len() as u32);
                self.program.tables.push(targets.iter().map(|t| labels + t).collect());
            }
        }
        for statement in body {
            match statement {
                Statement::Label(label) => {
                    self.labels[(labels + label) as usize] = Some(self.program.code.len() as u32)
                }
                Statement::BranchTargets(..) => {}
                Statement::Instruction(instruction) => {
                    self.instruction(&frame, instruction, depth).map_err(|e| self.located(instruction, e))?;
                }
            }
        }
        if let Some(after) = after {
            self.labels[after as usize] = Some(self.program.code.len() as u32);
        }
        self.stack.pop();
        Ok(())
    }

    fn located(&self, instruction: &ptx::Instruction, error: String) -> String {
        // An error from inside an inlined call has its place already.
        if error.contains("line ") {
            return error;
        }
        let source = instruction
            .location
            .and_then(|l| Some(format!(" ({}:{})", self.module.files.get(&l.file)?, l.line)))
            .unwrap_or_default();
        let text = self.program.text.lines().nth(instruction.line as usize - 1).unwrap_or("").trim();
        format!("line {} of the PTX{source}: `{text}`: {error}", instruction.line)
    }

    /// Address of an array in shared memory, placed at its first use.
    fn shared_array(&mut self, variable: &'a ptx::Variable) -> u64 {
        let Some(size) = variable.size else {
            // The dynamic array is placed last; all its names mean the same address.
            self.dynamic.get_or_insert_with(|| variable.name.clone());
            return DYNAMIC;
        };
        // Static arrays of other functions may have the same name.
        let key = format!(
            "{}@{}",
            variable.name,
            if self.module.variables.iter().any(|v| v.name == variable.name) {
                ""
            } else {
                self.stack.last().unwrap_or(&"")
            }
        );
        if let Some(address) = self.shared.get(&key) {
            return *address;
        }
        let packed = round_up(self.packed, variable.align);
        self.packed = packed + size;
        let address = (self.program.shared.len() as u64 + 1) * SHARED_STRIDE + packed % 128;
        self.program.shared.push(SharedArray { name: variable.name.clone(), address, bytes: size as u32 });
        self.shared.insert(key, address);
        address
    }

    /// What a name stands for as an address, and in which space.
    fn symbol(&mut self, frame: &Frame<'a>, name: &str) -> Result<(AccessSpace, u64)> {
        if let Some(place) = frame.places.get(name) {
            return Ok(match *place {
                Place::Parameter(offset) => (AccessSpace::Parameter, offset),
                Place::Local(address) => (AccessSpace::Local, address),
                Place::Shared(address) => (AccessSpace::Shared, address),
            });
        }
        if let Some(address) = self.addresses.get(name) {
            return Ok((AccessSpace::Global, *address));
        }
        match self.module.variables.iter().find(|v| v.name == name) {
            Some(variable) if variable.space == Space::Shared => {
                Ok((AccessSpace::Shared, self.shared_array(variable)))
            }
            _ => Err(format!("`{name}` is no variable that has an address")),
        }
    }

    fn register(&self, frame: &Frame<'a>, register: u32) -> (u32, Type, u32) {
        let number = frame.registers + register;
        let (ty, index, _) = self.registers[number as usize];
        (number, ty, index)
    }

    /// Plane or predicate of a source.
    fn source(
        &mut self,
        frame: &Frame<'a>,
        operand: &Operand,
        kind: Kind,
        uses: &mut Vec<u32>,
    ) -> Result<u32> {
        let wide = matches!(kind, Kind::Wide(_));
        match (operand, kind) {
            (Operand::Register(r), _) => {
                let (number, ty, index) = self.register(frame, *r);
                let fits = match kind {
                    Kind::Predicate => ty == Type::Pred,
                    Kind::Narrow(_) => ty != Type::Pred && ty.size() < 8,
                    Kind::Wide(_) => ty.size() == 8,
                };
                if !fits {
                    return Err(format!(
                        "register {} is of another width than the instruction",
                        self.registers[number as usize].2
                    ));
                }
                uses.push(number);
                Ok(index)
            }
            (Operand::Integer(value), Kind::Narrow(ty)) => {
                let bits = match ty.size() {
                    1 => value & 0xff,
                    2 => value & 0xffff,
                    _ => value & 0xffff_ffff,
                };
                Ok(self.constant(bits, false))
            }
            (Operand::Integer(value), Kind::Wide(_)) => Ok(self.constant(*value, true)),
            // True and false.
            (Operand::Integer(value), Kind::Predicate) => Ok(if *value != 0 { TRUE } else { FALSE }),
            (Operand::Float(bits), Kind::Narrow(Type::F32 | Type::U32 | Type::B32)) => {
                Ok(self.constant(*bits as u64, false))
            }
            (Operand::Double(bits), Kind::Wide(_)) => Ok(self.constant(*bits, true)),
            (Operand::Double(bits), Kind::Narrow(Type::F32)) => {
                Ok(self.constant((f64::from_bits(*bits) as f32).to_bits() as u64, false))
            }
            (Operand::Special(name), Kind::Narrow(_)) => {
                let special = special(name)?;
                Ok(self.special(special))
            }
            (Operand::Symbol(name, offset), _) => {
                let (_, address) = self.symbol(frame, name)?;
                if address == DYNAMIC {
                    return Ok(self.dynamic_address(*offset, wide));
                }
                Ok(self.constant(address.wrapping_add_signed(*offset), wide))
            }
            _ => Err("an operand that this instruction does not take".to_string()),
        }
    }

    /// The address of dynamic shared memory is known once all static arrays are: a constant that is filled in at the end.
    fn dynamic_address(&mut self, offset: i64, wide: bool) -> Plane {
        let key = (DYNAMIC.wrapping_add_signed(offset), wide);
        if let Some(plane) = self.constants.get(&key) {
            return *plane;
        }
        let plane = self.plane(wide);
        self.constants.insert(key, plane);
        self.program.constants.push((plane, key.0, wide));
        plane
    }

    /// Plane or predicate of a destination.
    fn destination(
        &mut self,
        frame: &Frame<'a>,
        operand: &Operand,
        kind: Kind,
        uses: &mut Vec<u32>,
    ) -> Result<u32> {
        match operand {
            Operand::Register(_) => self.source(frame, operand, kind, uses),
            Operand::Sink => Ok(match kind {
                Kind::Predicate => 0,
                Kind::Narrow(_) => self.sink(false),
                Kind::Wide(_) => self.sink(true),
            }),
            _ => Err("a destination that is no register".to_string()),
        }
    }

    /// Appends an operation of a function whose first register is number `first`.
    fn push(
        &mut self,
        first: u32,
        instruction: &ptx::Instruction,
        action: Action,
        class: Class,
        uses: Uses,
    ) -> Result<&mut Operation> {
        let mut uses = uses;
        let (guard, guard_flip) = match instruction.predicate {
            None => (0, 0),
            Some((register, negated)) => {
                let number = first + register;
                let (ty, index, _) = self.registers[number as usize];
                if ty != Type::Pred {
                    return Err("a guard that is no predicate".to_string());
                }
                uses.reads.push(number);
                (index, if negated { !0 } else { 0 })
            }
        };
        let line = Line { location: instruction.location };
        let count = self.lines.len();
        let line = match self.lines.get(&line) {
            Some(index) => *index,
            None => {
                // Lines beyond what a stamp of the race check can hold share the last one.
                let index = count.min(crate::machine::MOST_LINES - 1) as u16;
                self.lines.insert(line.clone(), index);
                if count < crate::machine::MOST_LINES {
                    self.program.lines.push(line);
                }
                index
            }
        };
        self.program.ptx_lines.push(instruction.line);
        self.uses.push(uses);
        self.program.code.push(Operation {
            action,
            d: 0,
            d2: 0,
            a: 0,
            b: 0,
            c: 0,
            extra: 0,
            guard,
            guard_flip,
            line,
            class,
            flops: 0,
            leader: false,
            tracked: false,
        });
        match self.program.code.last_mut() {
            Some(last) => Ok(last),
            None => Err("no instruction".to_string()),
        }
    }

    fn instruction(&mut self, frame: &Frame<'a>, i: &'a ptx::Instruction, depth: usize) -> Result<()> {
        let opcode: Vec<&str> = i.opcode.iter().map(String::as_str).collect();
        match opcode[0] {
            "mov" => self.mov(frame, i),
            "ld" | "ldu" | "st" => self.load_or_store(frame, i),
            "atom" | "red" => self.atomic(frame, i),
            "ldmatrix" => self.load_matrix(frame, i),
            "mma" => self.tensor(frame, i),
            "cvta" => self.convert_address(frame, i),
            "isspacep" => self.is_space(frame, i),
            "bra" => {
                let [Operand::Label(label)] = i.operands.as_slice() else {
                    return Err("a branch without a label".to_string());
                };
                let target = frame.labels + label;
                self.push(frame.registers, i, Action::Branch(target), Class::Branch, Uses::default())?;
                Ok(())
            }
            "brx" => {
                let [index, Operand::Label(table)] = i.operands.as_slice() else {
                    return Err("brx.idx without an index and a table".to_string());
                };
                let table =
                    *self.tables.get(&(frame.labels + table)).ok_or("brx.idx without .branchtargets")?;
                let mut uses = Uses::default();
                let a = self.source(frame, index, Kind::Narrow(Type::U32), &mut uses.reads)?;
                self.push(frame.registers, i, Action::BranchTable(table), Class::Branch, uses)?.a = a;
                Ok(())
            }
            "ret" | "exit" => {
                let action = match frame.after {
                    Some(after) if opcode[0] == "ret" => Action::Branch(after),
                    _ => Action::Exit,
                };
                self.push(frame.registers, i, action, Class::Branch, Uses::default())?;
                Ok(())
            }
            "trap" => {
                self.push(frame.registers, i, Action::Trap, Class::Other, Uses::default())?;
                Ok(())
            }
            "nanosleep" | "prefetch" | "prefetchu" | "pragma" => {
                self.push(frame.registers, i, Action::Nothing, Class::Other, Uses::default())?;
                Ok(())
            }
            "membar" | "fence" => {
                if !opcode[1..]
                    .iter()
                    .all(|w| ["gl", "sys", "cta", "sc", "acq_rel", "gpu", "acquire", "release"].contains(w))
                {
                    return Err("a fence that is not modelled".to_string());
                }
                self.program.fenced |= !opcode.contains(&"cta");
                self.program.fenced_block = true;
                self.push(frame.registers, i, Action::Fence, Class::Barrier, Uses::default())?;
                Ok(())
            }
            "call" => self.call(frame, i, depth),
            "bar" | "barrier" => self.barrier(frame, i),
            "shfl" => self.shuffle(frame, i),
            "vote" => self.vote(frame, i),
            "match" => self.match_sync(frame, i),
            "activemask" => {
                let mut uses = Uses::default();
                let d = self.destination(frame, operand(i, 0)?, Kind::Narrow(Type::U32), &mut uses.writes)?;
                self.push(frame.registers, i, Action::ActiveMask, Class::Shuffle, uses)?.d = d;
                Ok(())
            }
            _ => {
                let Some(lanewise) = alu::select(&i.opcode, self.isa) else {
                    return Err("this instruction is not modelled".to_string());
                };
                let low = match (opcode[0], lanewise.sources.as_slice(), i.operands.get(1)) {
                    ("cvt", [Kind::Narrow(_)], Some(Operand::Register(r)))
                        if self.register(frame, *r).1.size() == 8 =>
                    {
                        alu::convert_low(&i.opcode, self.isa)
                    }
                    _ => None,
                };
                self.lanewise(frame, i, low.unwrap_or(lanewise))
            }
        }
    }

    fn lanewise(&mut self, frame: &Frame<'a>, i: &'a ptx::Instruction, l: Lanewise) -> Result<()> {
        let mut uses = Uses::default();
        let mut operands = i.operands.iter();
        let first = operands.next().ok_or("an instruction without operands")?;
        let (first, second) = match first {
            Operand::Pair(p, q) if l.compares => (&**p, Some(&**q)),
            other => (other, None),
        };
        let d = self.destination(frame, first, l.destination, &mut uses.writes)?;
        let mut d2 = match second {
            Some(second) => self.destination(frame, second, l.destination, &mut uses.writes)?,
            None => 0,
        };
        let mut planes = [0; 4];
        let selects = i.opcode[0] == "selp";
        let hands_on = l.destination == Kind::Predicate;
        let merge = match i.opcode[0].as_str() {
            "selp" => Some(Merge::Select),
            "and" if hands_on => Some(Merge::And),
            "or" if hands_on => Some(Merge::Or),
            _ => None,
        };
        let mut merged = [None; 2];
        let mut extra = l.extra;
        if operands.len() < l.sources.len() {
            return Err("too few operands".to_string());
        }
        for (place, kind) in l.sources.iter().enumerate() {
            let Some(operand) = operands.next() else { break };
            // A selection hands on what it selects, initialised or not; comparisons and what is made of them do too.
            let list = if hands_on || selects && place < 2 { &mut uses.copies } else { &mut uses.reads };
            let before = list.len();
            planes[place] = match (operand, kind) {
                (Operand::NotRegister(r), Kind::Predicate) if selects => {
                    extra = !0;
                    self.source(frame, &Operand::Register(*r), *kind, list)?
                }
                _ => self.source(frame, operand, *kind, list)?,
            };
            if place < 2 {
                merged[place] = list.get(before).copied();
            }
        }
        uses.merge = merge.map(|merge| (merge, merged));
        match i.opcode[0].as_str() {
            "lop3" => match operands.next() {
                Some(Operand::Integer(table)) if *table < 256 => extra = *table as u32,
                _ => return Err("lop3 without its table".to_string()),
            },
            "bfi" => extra = planes[3],
            _ => {}
        }
        if l.compares {
            match operands.next() {
                None => {}
                Some(Operand::NotRegister(r)) => {
                    planes[2] =
                        self.source(frame, &Operand::Register(*r), Kind::Predicate, &mut uses.reads)?;
                    extra |= NEGATE;
                }
                Some(operand) => planes[2] = self.source(frame, operand, Kind::Predicate, &mut uses.reads)?,
            }
        }
        if operands.next().is_some() {
            return Err("too many operands".to_string());
        }
        if l.carry_in || l.carry_out {
            let number = match self.carry {
                Some(number) => number,
                None => {
                    self.program.predicates += 1;
                    self.registers.push((Type::Pred, self.program.predicates - 1, "the carry".to_string()));
                    self.registers.len() as u32 - 1
                }
            };
            self.carry = Some(number);
            let index = self.registers[number as usize].1;
            if l.carry_in {
                uses.reads.push(number);
                planes[2] = index;
            }
            if l.carry_out {
                uses.writes.push(number);
                d2 = index;
            }
        }
        let o = self.push(frame.registers, i, Action::Compute(l.compute), l.class, uses)?;
        o.flops = l.flops;
        (o.d, o.d2, o.a, o.b, o.c, o.extra) = (d, d2, planes[0], planes[1], planes[2], extra);
        Ok(())
    }

    fn mov(&mut self, frame: &Frame<'a>, i: &'a ptx::Instruction) -> Result<()> {
        let mut m = Modifiers::new(&i.opcode[1..]);
        let ty = m.take_type().ok_or("mov without a type")?;
        if !m.is_empty() {
            return Err("this mov is not modelled".to_string());
        }
        let (to, from) = (operand(i, 0)?, operand(i, 1)?);
        let mut uses = Uses::default();
        let kind = match ty {
            Type::Pred => Kind::Predicate,
            Type::B128 => return Err("values of 128 bits are not modelled".to_string()),
            ty if ty.size() == 8 => Kind::Wide(ty),
            ty => Kind::Narrow(ty),
        };
        if let Operand::Special(name) = from
            && ["%clock", "%clock64", "%clock_hi", "%globaltimer", "%globaltimer_lo", "%globaltimer_hi"]
                .contains(&name.as_str())
        {
            if name.ends_with("hi") {
                return Err(format!("{name} is not modelled"));
            }
            let d = self.destination(frame, to, kind, &mut uses.writes)?;
            self.push(frame.registers, i, Action::Clock(ty.size() == 8), Class::Other, uses)?.d = d;
            return Ok(());
        }
        match (to, from) {
            (_, Operand::Vector(parts)) => self.pack(frame, i, to, kind, parts),
            (Operand::Vector(parts), _) => self.unpack(frame, i, parts, kind, from),
            _ => {
                let d = self.destination(frame, to, kind, &mut uses.writes)?;
                // Special registers of 32 bits may be read as 64.
                let a = match (from, kind) {
                    (Operand::Special(_), Kind::Wide(_)) => {
                        return Err("this register cannot be read as 64 bits".to_string());
                    }
                    (Operand::NotRegister(_), _) => return Err("mov takes no negated predicate".to_string()),
                    _ => self.source(frame, from, kind, &mut uses.copies)?,
                };
                let compute = alu::copy(kind, self.isa);
                let o = self.push(frame.registers, i, Action::Compute(compute), Class::Move, uses)?;
                (o.d, o.a) = (d, a);
                Ok(())
            }
        }
    }

    fn pack(
        &mut self,
        frame: &Frame<'a>,
        i: &'a ptx::Instruction,
        to: &Operand,
        kind: Kind,
        parts: &[Operand],
    ) -> Result<()> {
        let mut uses = Uses::default();
        let (compute, part) =
            alu::pack(kind, parts.len(), self.isa).ok_or("a mov that packs in no way that is modelled")?;
        let d = self.destination(frame, to, kind, &mut uses.writes)?;
        let mut planes = [0; 4];
        for (plane, operand) in planes.iter_mut().zip(parts) {
            *plane = self.source(frame, operand, part, &mut uses.copies)?;
        }
        let o = self.push(frame.registers, i, Action::Compute(compute), Class::Move, uses)?;
        (o.d, o.a, o.b, o.c, o.extra) = (d, planes[0], planes[1], planes[2], planes[3]);
        Ok(())
    }

    fn unpack(
        &mut self,
        frame: &Frame<'a>,
        i: &'a ptx::Instruction,
        parts: &[Operand],
        kind: Kind,
        from: &Operand,
    ) -> Result<()> {
        let mut uses = Uses::default();
        let (compute, part) = alu::unpack(kind, parts.len(), self.isa)
            .ok_or("a mov that unpacks in no way that is modelled")?;
        let a = self.source(frame, from, kind, &mut uses.copies)?;
        let mut planes = [0; 4];
        for (plane, operand) in planes.iter_mut().zip(parts) {
            *plane = self.destination(frame, operand, part, &mut uses.writes)?;
        }
        let o = self.push(frame.registers, i, Action::Compute(compute), Class::Move, uses)?;
        (o.a, o.d, o.d2, o.b, o.c) = (a, planes[0], planes[1], planes[2], planes[3]);
        Ok(())
    }

    /// Base and offset of an address; the space where a symbol tells it.
    fn address(
        &mut self,
        frame: &Frame<'a>,
        operand: &Operand,
        uses: &mut Vec<u32>,
    ) -> Result<(Option<Plane>, bool, i64, Option<AccessSpace>)> {
        let Operand::Address(base, offset) = operand else {
            return Err("an access without an address".to_string());
        };
        match base {
            Base::Register(r) => {
                let (number, ty, index) = self.register(frame, *r);
                if !matches!(ty.size(), 4 | 8) {
                    return Err("an address in a register of neither 32 nor 64 bits".to_string());
                }
                uses.push(number);
                Ok((Some(index), ty.size() == 8, *offset, None))
            }
            Base::Symbol(name) => {
                let (space, address) = self.symbol(frame, name)?;
                if address == DYNAMIC {
                    return Ok((Some(self.dynamic_address(0, true)), true, *offset, Some(space)));
                }
                Ok((None, true, (address as i64).wrapping_add(*offset), Some(space)))
            }
            Base::Absolute => Ok((None, true, *offset, None)),
        }
    }

    fn load_or_store(&mut self, frame: &Frame<'a>, i: &'a ptx::Instruction) -> Result<()> {
        let load = i.opcode[0] != "st";
        let mut m = Modifiers::new(&i.opcode[1..]);
        let strong = m
            .take_any(&[("volatile", true), ("relaxed", true), ("acquire", true), ("release", true)])
            .unwrap_or(false);
        let orders = i.opcode.iter().any(|w| w == "acquire" || w == "release");
        m.take("weak");
        m.take_any(&[("cta", ()), ("gpu", ()), ("sys", ())]);
        let space = take_space(&mut m);
        m.take("nc");
        // Hints for caches change no value.
        m.take_any(&[("ca", ()), ("cg", ()), ("cs", ()), ("lu", ()), ("cv", ()), ("wb", ()), ("wt", ())]);
        for hint in [
            "L1::evict_normal",
            "L1::evict_unchanged",
            "L1::evict_first",
            "L1::evict_last",
            "L1::no_allocate",
            "L2::64B",
            "L2::128B",
            "L2::256B",
        ] {
            m.take(hint);
        }
        let count = m.take_any(&[("v2", 2), ("v4", 4)]).unwrap_or(1);
        let ty = m.take_type().ok_or("an access without a type")?;
        if !m.is_empty() || ty.size() == 0 || ty.size() > 8 {
            return Err("this access is not modelled".to_string());
        }
        let (target, value) =
            if load { (operand(i, 1)?, operand(i, 0)?) } else { (operand(i, 0)?, operand(i, 1)?) };
        let mut uses = Uses::default();
        let (base, wide_base, offset, implied) = self.address(frame, target, &mut uses.reads)?;
        // A parameter of a call lies in local memory, and so does one of a called function.
        let space = match space {
            Some(Space::Param) => implied.unwrap_or(AccessSpace::Parameter),
            Some(Space::Global | Space::Const) => AccessSpace::Global,
            Some(Space::Shared) => AccessSpace::Shared,
            Some(Space::Local) => AccessSpace::Local,
            None => AccessSpace::Generic,
        };
        if implied.is_some_and(|implied| implied != space) && space != AccessSpace::Generic {
            return Err("the variable is in another space than the access".to_string());
        }
        let offset = match (space, implied) {
            (AccessSpace::Generic, Some(AccessSpace::Shared)) => offset.wrapping_add_unsigned(SHARED_WINDOW),
            (AccessSpace::Generic, Some(AccessSpace::Local)) => offset.wrapping_add_unsigned(LOCAL_WINDOW),
            _ => offset,
        };
        let parts = match value {
            Operand::Vector(parts) => parts.as_slice(),
            one => std::slice::from_ref(one),
        };
        if parts.len() != count as usize {
            return Err(format!("{} registers for {count} values", parts.len()));
        }
        let mut planes = [None; 4];
        let mut wide = ty.size() == 8;
        // Registers may be wider than the value: a load extends, a store takes the low bytes.
        for part in parts {
            if let Operand::Register(r) = part {
                let (_, register, _) = self.register(frame, *r);
                wide = register.size() == 8;
                if register.size() < ty.size() && !(register.size() == 2 && ty.size() == 1)
                    || register == Type::Pred
                {
                    return Err("a register narrower than the value".to_string());
                }
            }
        }
        let kind = if wide { Kind::Wide(ty) } else { Kind::Narrow(ty) };
        for (plane, part) in planes.iter_mut().zip(parts) {
            *plane = match part {
                Operand::Sink if load => None,
                _ if load => Some(self.destination(frame, part, kind, &mut uses.writes)?),
                _ => Some(self.source(frame, part, kind, &mut uses.reads)?),
            };
        }
        let class = match (space, load) {
            (AccessSpace::Parameter, _) => Class::ConstantLoad,
            (AccessSpace::Local, _) => Class::LocalAccess,
            (AccessSpace::Shared, true) => Class::SharedLoad,
            (AccessSpace::Shared, false) => Class::SharedStore,
            (_, true) => Class::GlobalLoad,
            (_, false) => Class::GlobalStore,
        };
        let access = Access {
            space,
            base,
            wide_base,
            offset,
            element: ty.size() as u32,
            count,
            planes,
            wide,
            signed: matches!(ty, Type::S8 | Type::S16 | Type::S32),
            strong,
            atomic: None,
            matrices: 0,
            transposed: false,
        };
        self.program.fenced |= orders;
        self.program.fenced_block |= orders;
        let index = self.access(access);
        self.push(
            frame.registers,
            i,
            if load { Action::Load(index) } else { Action::Store(index) },
            class,
            uses,
        )?;
        Ok(())
    }

    /// Notes an access and the smallest piece of memory that the kernel touches at once.
    fn access(&mut self, access: Access) -> u32 {
        let bytes = if access.matrices > 0 { 16 } else { access.element * access.count };
        let log = bytes.trailing_zeros();
        if matches!(access.space, AccessSpace::Shared | AccessSpace::Generic) {
            self.program.shared_granule = self.program.shared_granule.min(log);
        }
        if matches!(access.space, AccessSpace::Global | AccessSpace::Generic) {
            self.program.global_granule = self.program.global_granule.min(log);
        }
        self.program.accesses.push(access);
        self.program.accesses.len() as u32 - 1
    }

    fn atomic(&mut self, frame: &Frame<'a>, i: &'a ptx::Instruction) -> Result<()> {
        let returns = i.opcode[0] == "atom";
        let mut m = Modifiers::new(&i.opcode[1..]);
        let orders = m
            .take_any(&[("relaxed", false), ("acquire", true), ("release", true), ("acq_rel", true)])
            .unwrap_or(false);
        m.take_any(&[("cta", ()), ("gpu", ()), ("sys", ())]);
        let space = match take_space(&mut m) {
            Some(Space::Global) => AccessSpace::Global,
            Some(Space::Shared) => AccessSpace::Shared,
            None => AccessSpace::Generic,
            _ => return Err("atomics work on global and shared memory".to_string()),
        };
        m.take("noftz");
        #[derive(Clone, Copy, PartialEq)]
        enum Named {
            Add,
            Min,
            Max,
            Kind(AtomicKind),
        }
        let named = m
            .take_any(&[
                ("add", Named::Add),
                ("min", Named::Min),
                ("max", Named::Max),
                ("and", Named::Kind(AtomicKind::And)),
                ("or", Named::Kind(AtomicKind::Or)),
                ("xor", Named::Kind(AtomicKind::Xor)),
                ("exch", Named::Kind(AtomicKind::Exchange)),
                ("cas", Named::Kind(AtomicKind::CompareAndSwap)),
                ("inc", Named::Kind(AtomicKind::Increment)),
                ("dec", Named::Kind(AtomicKind::Decrement)),
            ])
            .ok_or("an atomic that is not modelled")?;
        let ty = m.take_type().ok_or("an atomic without a type")?;
        if !m.is_empty() {
            return Err("this atomic is not modelled".to_string());
        }
        let kind = match (named, ty) {
            (Named::Add, Type::U32 | Type::S32 | Type::U64 | Type::B32 | Type::B64) => AtomicKind::Add,
            (Named::Add, Type::F16) => AtomicKind::AddF16,
            (Named::Add, Type::F16x2) => AtomicKind::AddF16x2,
            (Named::Add, Type::F32) => AtomicKind::AddF32,
            (Named::Add, Type::F64) => AtomicKind::AddF64,
            (Named::Min, Type::S32 | Type::S64) => AtomicKind::MinSigned,
            (Named::Max, Type::S32 | Type::S64) => AtomicKind::MaxSigned,
            (Named::Min, Type::U32 | Type::U64) => AtomicKind::MinUnsigned,
            (Named::Max, Type::U32 | Type::U64) => AtomicKind::MaxUnsigned,
            (Named::Kind(kind @ (AtomicKind::Increment | AtomicKind::Decrement)), Type::U32) => kind,
            (Named::Kind(AtomicKind::CompareAndSwap), Type::B16) => AtomicKind::CompareAndSwap,
            (Named::Kind(kind), Type::B32 | Type::B64)
                if !matches!(kind, AtomicKind::Increment | AtomicKind::Decrement) =>
            {
                kind
            }
            _ => return Err("an atomic on a type that is not modelled".to_string()),
        };
        let mut uses = Uses::default();
        let mut operands = i.operands.iter();
        let wide = ty.size() == 8;
        let register = if wide { Kind::Wide(ty) } else { Kind::Narrow(ty) };
        let mut planes = [None; 4];
        if returns {
            let to = operands.next().ok_or("an atomic without a destination")?;
            planes[0] = Some(self.destination(frame, to, register, &mut uses.writes)?);
        }
        let (base, wide_base, offset, _) =
            self.address(frame, operands.next().ok_or("an atomic without an address")?, &mut uses.reads)?;
        let value = self.source(
            frame,
            operands.next().ok_or("an atomic without an operand")?,
            register,
            &mut uses.reads,
        )?;
        let second = match operands.next() {
            Some(second) => self.source(frame, second, register, &mut uses.reads)?,
            None if kind == AtomicKind::CompareAndSwap => {
                return Err("cas without a second operand".to_string());
            }
            None => value,
        };
        let access = Access {
            space,
            base,
            wide_base,
            offset,
            element: ty.size() as u32,
            count: 1,
            planes,
            wide,
            signed: false,
            strong: true,
            atomic: Some(Atomic { kind, operand: value, second }),
            matrices: 0,
            transposed: false,
        };
        self.program.fenced |= orders;
        self.program.fenced_block |= orders;
        let index = self.access(access);
        self.push(frame.registers, i, Action::Atomic(index), Class::Atomic, uses)?;
        Ok(())
    }

    fn load_matrix(&mut self, frame: &Frame<'a>, i: &'a ptx::Instruction) -> Result<()> {
        let mut m = Modifiers::new(&i.opcode[1..]);
        let known = m.take("sync") && m.take("aligned") && m.take("m8n8");
        let matrices = m.take_any(&[("x1", 1), ("x2", 2), ("x4", 4)]);
        let transposed = m.take("trans");
        let space = match take_space(&mut m) {
            Some(Space::Shared) => AccessSpace::Shared,
            None => AccessSpace::Generic,
            _ => return Err("ldmatrix reads shared memory".to_string()),
        };
        let (true, Some(matrices), true) = (known, matrices, m.take("b16") && m.is_empty()) else {
            return Err("this ldmatrix is not modelled".to_string());
        };
        let mut uses = Uses::default();
        let (base, wide_base, offset, _) = self.address(frame, operand(i, 1)?, &mut uses.reads)?;
        let parts = match operand(i, 0)? {
            Operand::Vector(parts) => parts.as_slice(),
            one => std::slice::from_ref(one),
        };
        if parts.len() != matrices as usize {
            return Err(format!("{} registers for {matrices} matrices", parts.len()));
        }
        let mut planes = [None; 4];
        for (plane, part) in planes.iter_mut().zip(parts) {
            *plane = Some(self.destination(frame, part, Kind::Narrow(Type::B32), &mut uses.writes)?);
        }
        let access = Access {
            space,
            base,
            wide_base,
            offset,
            element: 16,
            count: 1,
            planes,
            wide: false,
            signed: false,
            strong: false,
            atomic: None,
            matrices,
            transposed,
        };
        let index = self.access(access);
        self.push(frame.registers, i, Action::LoadMatrix(index), Class::SharedLoad, uses)?;
        Ok(())
    }

    fn tensor(&mut self, frame: &Frame<'a>, i: &'a ptx::Instruction) -> Result<()> {
        let compute =
            alu::tensor(&i.opcode, self.isa).ok_or("this mma is not modelled: Turing's m16n8k8 of f16 is")?;
        let mut uses = Uses::default();
        let kind = Kind::Narrow(Type::B32);
        let mut fragments = [[0; 4]; 4];
        let sizes = match compute {
            alu::TensorCompute::F32(_) => [4, 2, 1, 4],
            alu::TensorCompute::F16(_) => [2, 2, 1, 2],
        };
        for (place, (fragment, size)) in fragments.iter_mut().zip(sizes).enumerate() {
            let parts = match operand(i, place)? {
                Operand::Vector(parts) => parts.as_slice(),
                one => std::slice::from_ref(one),
            };
            if parts.len() != size {
                return Err(format!("{} registers for a fragment of {size}", parts.len()));
            }
            for (plane, part) in fragment.iter_mut().zip(parts) {
                *plane = match place {
                    0 => self.destination(frame, part, kind, &mut uses.writes)?,
                    // An immediate zero as the addend is a f32 of zero.
                    _ => self.source(frame, part, kind, &mut uses.reads)?,
                };
            }
        }
        let [d, a, b, c] = fragments;
        self.program.tensors.push(Tensor { compute, a: [a[0], a[1]], b: b[0], c, d });
        let index = self.program.tensors.len() as u32 - 1;
        let o = self.push(frame.registers, i, Action::Tensor(index), Class::Tensor, uses)?;
        // 2 * 16 * 8 * 8 for 32 threads.
        o.flops = 64;
        Ok(())
    }

    fn convert_address(&mut self, frame: &Frame<'a>, i: &'a ptx::Instruction) -> Result<()> {
        let mut m = Modifiers::new(&i.opcode[1..]);
        let to = m.take("to");
        let window = match take_space(&mut m) {
            Some(Space::Global | Space::Const) => 0,
            Some(Space::Shared) => SHARED_WINDOW,
            Some(Space::Local) => LOCAL_WINDOW,
            _ => return Err("cvta of this space is not modelled".to_string()),
        };
        if !m.take("u64") || !m.is_empty() {
            return Err("this cvta is not modelled".to_string());
        }
        let mut uses = Uses::default();
        let kind = Kind::Wide(Type::U64);
        let d = self.destination(frame, operand(i, 0)?, kind, &mut uses.writes)?;
        let a = self.source(frame, operand(i, 1)?, kind, &mut uses.reads)?;
        let b = self.constant(if to { 0u64.wrapping_sub(window) } else { window }, true);
        let add = alu::select(&["add".to_string(), "u64".to_string()], self.isa).ok_or("no addition")?;
        let o = self.push(frame.registers, i, Action::Compute(add.compute), Class::Integer, uses)?;
        (o.d, o.a, o.b) = (d, a, b);
        Ok(())
    }

    fn is_space(&mut self, frame: &Frame<'a>, i: &'a ptx::Instruction) -> Result<()> {
        let mut m = Modifiers::new(&i.opcode[1..]);
        let window = match take_space(&mut m) {
            Some(Space::Global) => 0,
            Some(Space::Shared) => SHARED_WINDOW,
            Some(Space::Local) => LOCAL_WINDOW,
            _ => return Err("isspacep of this space is not modelled".to_string()),
        };
        let mut uses = Uses::default();
        let d = self.destination(frame, operand(i, 0)?, Kind::Predicate, &mut uses.writes)?;
        let a = self.source(frame, operand(i, 1)?, Kind::Wide(Type::U64), &mut uses.reads)?;
        let extra = (window >> 56) as u32;
        let o =
            self.push(frame.registers, i, Action::Compute(alu::in_window(self.isa)), Class::Compare, uses)?;
        (o.d, o.a, o.extra) = (d, a, extra);
        Ok(())
    }

    fn barrier(&mut self, frame: &Frame<'a>, i: &'a ptx::Instruction) -> Result<()> {
        let mut m = Modifiers::new(&i.opcode[1..]);
        m.take("cta");
        let mut uses = Uses::default();
        let narrow = Kind::Narrow(Type::U32);
        if m.take("warp") {
            if !m.take("sync") || !m.is_empty() {
                return Err("this barrier is not modelled".to_string());
            }
            let a = self.source(frame, operand(i, 0)?, narrow, &mut uses.reads)?;
            self.push(frame.registers, i, Action::WarpBarrier, Class::Barrier, uses)?.a = a;
            return Ok(());
        }
        m.take("aligned");
        if m.take("red") {
            let reduction =
                m.take_any(&[("popc", Reduction::Popc), ("and", Reduction::And), ("or", Reduction::Or)]);
            let Some(reduction) = reduction else { return Err("this barrier is not modelled".to_string()) };
            let ty = m.take_type();
            if !m.is_empty() || !matches!(ty, Some(Type::U32 | Type::Pred)) {
                return Err("this barrier is not modelled".to_string());
            }
            let kind = if reduction == Reduction::Popc { narrow } else { Kind::Predicate };
            let d = self.destination(frame, operand(i, 0)?, kind, &mut uses.writes)?;
            let a = self.source(frame, operand(i, 1)?, narrow, &mut uses.reads)?;
            let counted = i.operands.len() == 4;
            let b = if counted { self.source(frame, operand(i, 2)?, narrow, &mut uses.reads)? } else { 0 };
            let last = operand(i, i.operands.len() - 1)?;
            let (c, extra) = self.predicate(frame, last, &mut uses.reads)?;
            let o = self.push(
                frame.registers,
                i,
                Action::Barrier(Barrier::Reduce { counted, reduction }),
                Class::Barrier,
                uses,
            )?;
            (o.d, o.a, o.b, o.c, o.extra) = (d, a, b, c, extra);
            return Ok(());
        }
        let arrive = m.take("arrive");
        if !arrive && !m.take("sync") || !m.is_empty() {
            return Err("this barrier is not modelled".to_string());
        }
        let a = self.source(frame, operand(i, 0)?, narrow, &mut uses.reads)?;
        let counted = i.operands.len() == 2;
        let b = if counted { self.source(frame, operand(i, 1)?, narrow, &mut uses.reads)? } else { 0 };
        if arrive && !counted {
            return Err("bar.arrive without a count".to_string());
        }
        let barrier = if arrive { Barrier::Arrive } else { Barrier::Sync { counted } };
        let o = self.push(frame.registers, i, Action::Barrier(barrier), Class::Barrier, uses)?;
        (o.a, o.b) = (a, b);
        Ok(())
    }

    /// A predicate source that may be negated: its index, and all ones where it is.
    fn predicate(&mut self, frame: &Frame<'a>, operand: &Operand, uses: &mut Vec<u32>) -> Result<(u32, u32)> {
        match operand {
            Operand::NotRegister(r) => {
                Ok((self.source(frame, &Operand::Register(*r), Kind::Predicate, uses)?, !0))
            }
            Operand::Integer(0) => Ok((0, !0)),
            other => Ok((self.source(frame, other, Kind::Predicate, uses)?, 0)),
        }
    }

    fn shuffle(&mut self, frame: &Frame<'a>, i: &'a ptx::Instruction) -> Result<()> {
        let mut m = Modifiers::new(&i.opcode[1..]);
        let sync = m.take("sync");
        let kind = m.take_any(&[
            ("up", Shuffle::Up),
            ("down", Shuffle::Down),
            ("bfly", Shuffle::Butterfly),
            ("idx", Shuffle::Index),
        ]);
        let (true, Some(kind), true) = (sync, kind, m.take("b32") && m.is_empty()) else {
            return Err("this shuffle is not modelled".to_string());
        };
        let mut uses = Uses::default();
        let narrow = Kind::Narrow(Type::B32);
        let (to, second) = match operand(i, 0)? {
            Operand::Pair(to, predicate) => (&**to, Some(&**predicate)),
            to => (to, None),
        };
        let d = self.destination(frame, to, narrow, &mut uses.writes)?;
        let d2 = match second {
            Some(second) => self.destination(frame, second, Kind::Predicate, &mut uses.sets)?,
            None => 0,
        };
        let mut planes = [0; 4];
        for (place, plane) in planes.iter_mut().enumerate() {
            // The value of a lane that nobody reads from may be anything.
            let list = if place == 0 { &mut uses.copies } else { &mut uses.reads };
            *plane = self.source(frame, operand(i, place + 1)?, narrow, list)?;
        }
        let o = self.push(frame.registers, i, Action::Shuffle(kind), Class::Shuffle, uses)?;
        (o.d, o.d2, o.a, o.b, o.c, o.extra) = (d, d2, planes[0], planes[1], planes[2], planes[3]);
        Ok(())
    }

    fn vote(&mut self, frame: &Frame<'a>, i: &'a ptx::Instruction) -> Result<()> {
        let mut m = Modifiers::new(&i.opcode[1..]);
        let sync = m.take("sync");
        let kind = m.take_any(&[
            ("ballot", Vote::Ballot),
            ("all", Vote::All),
            ("any", Vote::Any),
            ("uni", Vote::Uniform),
        ]);
        let ty = m.take_type();
        let (true, Some(kind), true) =
            (sync, kind, m.is_empty() && matches!(ty, Some(Type::B32 | Type::Pred)))
        else {
            return Err("this vote is not modelled".to_string());
        };
        let mut uses = Uses::default();
        let to = if kind == Vote::Ballot { Kind::Narrow(Type::B32) } else { Kind::Predicate };
        let d = self.destination(frame, operand(i, 0)?, to, &mut uses.writes)?;
        let (a, extra) = self.predicate(frame, operand(i, 1)?, &mut uses.reads)?;
        let b = self.source(frame, operand(i, 2)?, Kind::Narrow(Type::B32), &mut uses.reads)?;
        let o = self.push(frame.registers, i, Action::Vote(kind), Class::Shuffle, uses)?;
        (o.d, o.a, o.b, o.extra) = (d, a, b, extra);
        Ok(())
    }

    fn match_sync(&mut self, frame: &Frame<'a>, i: &'a ptx::Instruction) -> Result<()> {
        let mut m = Modifiers::new(&i.opcode[1..]);
        let all = m.take("all");
        let known = (all || m.take("any")) && m.take("sync");
        let ty = m.take_type();
        let (true, Some(ty @ (Type::B32 | Type::B64)), true) = (known, ty, m.is_empty()) else {
            return Err("this match is not modelled".to_string());
        };
        let mut uses = Uses::default();
        let (to, second) = match operand(i, 0)? {
            Operand::Pair(to, predicate) => (&**to, Some(&**predicate)),
            to => (to, None),
        };
        let d = self.destination(frame, to, Kind::Narrow(Type::B32), &mut uses.writes)?;
        let d2 = match second {
            Some(second) => self.destination(frame, second, Kind::Predicate, &mut uses.writes)?,
            None => 0,
        };
        let wide = ty == Type::B64;
        let value = if wide { Kind::Wide(ty) } else { Kind::Narrow(ty) };
        let a = self.source(frame, operand(i, 1)?, value, &mut uses.reads)?;
        let b = self.source(frame, operand(i, 2)?, Kind::Narrow(Type::B32), &mut uses.reads)?;
        let o = self.push(frame.registers, i, Action::Match { all, wide }, Class::Shuffle, uses)?;
        (o.d, o.d2, o.a, o.b) = (d, d2, a, b);
        Ok(())
    }

    /// Puts the called function here: its parameters are the caller's variables, in local memory.
    fn call(&mut self, frame: &Frame<'a>, i: &'a ptx::Instruction, depth: usize) -> Result<()> {
        let [Operand::Arguments(returns), Operand::Function(name), Operand::Arguments(arguments)] =
            i.operands.as_slice()
        else {
            return Err("calls through a pointer are not modelled".to_string());
        };
        if i.predicate.is_some() {
            return Err("a call under a predicate is not modelled".to_string());
        }
        let mut place = |operand: &'a Operand| match operand {
            Operand::Symbol(name, 0) => match self.symbol(frame, name)? {
                (AccessSpace::Local, address) => Ok(address),
                _ => Err(format!("`{name}` is no parameter of a call")),
            },
            _ => Err("an argument that is no variable of space param".to_string()),
        };
        let returns = returns.iter().map(&mut place).collect::<Result<Vec<u64>>>()?;
        let arguments = arguments.iter().map(&mut place).collect::<Result<Vec<u64>>>()?;
        match name.as_str() {
            "vprintf" | "__assertfail" => {
                self.program.calls.push(SystemCall { arguments, result: returns.first().copied() });
                let index = self.program.calls.len() as u32 - 1;
                let action = if name == "vprintf" { Action::Print(index) } else { Action::AssertFail(index) };
                self.push(frame.registers, i, action, Class::Other, Uses::default())?;
                Ok(())
            }
            _ => {
                let callee =
                    self.module.functions.iter().filter(|f| f.name == *name).max_by_key(|f| f.body.is_some());
                let Some(callee) = callee else { return Err(format!("there is no function `{name}`")) };
                if callee.parameters.len() != arguments.len() || callee.returns.len() != returns.len() {
                    return Err(format!("`{name}` has other parameters than the call"));
                }
                let names = callee.parameters.iter().chain(&callee.returns).map(|v| v.name.as_str());
                let bound = names
                    .zip(arguments.into_iter().chain(returns))
                    .map(|(name, address)| (name, Place::Local(address)))
                    .collect();
                self.inline(callee, bound, depth + 1)
            }
        }
    }

    fn finish(mut self) -> Result<Program> {
        // The last thread's end, whatever the text ends with.
        let end = ptx::Instruction {
            predicate: None,
            opcode: vec!["ret".to_string()],
            operands: vec![],
            location: None,
            line: 1,
        };
        self.push(0, &end, Action::Exit, Class::Branch, Uses::default())?;
        let labels = std::mem::take(&mut self.labels);
        let resolve = |label: u32| {
            labels
                .get(label as usize)
                .copied()
                .flatten()
                .ok_or_else(|| "a branch to a label that is nowhere".to_string())
        };
        let mut leaders = vec![0];
        for (place, o) in self.program.code.iter_mut().enumerate() {
            match &mut o.action {
                Action::Branch(target) => {
                    *target = resolve(*target)?;
                    leaders.extend([*target as usize, place + 1]);
                }
                Action::BranchTable(_) | Action::Exit => leaders.push(place + 1),
                _ => {}
            }
        }
        for table in &mut self.program.tables {
            for target in table {
                *target = resolve(*target)?;
                leaders.push(*target as usize);
            }
        }
        for leader in leaders {
            if let Some(o) = self.program.code.get_mut(leader) {
                o.leader = true;
            }
        }
        let packed = round_up(self.packed, 16);
        let address = (self.program.shared.len() as u64 + 1) * SHARED_STRIDE + packed % 128;
        self.program.dynamic_shared = self.dynamic.take().map(|name| (name, address));
        for (_, bits, _) in &mut self.program.constants {
            // Constants near the placeholder are addresses in dynamic shared memory.
            let distance = bits.wrapping_sub(DYNAMIC) as i64;
            if distance.abs() < 1 << 20 {
                *bits = address.wrapping_add_signed(distance);
            }
        }
        if self.packed > MOST_SHARED {
            return Err(format!(
                "{} bytes of static shared memory, of which it can have {MOST_SHARED}",
                self.packed
            ));
        }
        let local: u64 = self.program.local_variables.iter().map(|variable| variable.bytes).sum();
        if local > MOST_LOCAL {
            return Err(format!("{local} bytes of local memory a thread, of which it can have {MOST_LOCAL}"));
        }
        self.program.static_shared = self.packed as u32;
        self.program.local = (self.local - LOCAL_START) as u32;
        if self.program.code.len() > u32::MAX as usize / 2 {
            return Err("a kernel of more instructions than can be numbered".to_string());
        }
        let names: Vec<String> = self.registers.iter().map(|(_, _, name)| name.clone()).collect();
        flow::track(&mut self.program, &self.uses, &names);
        Ok(self.program)
    }
}

/// Bytes of static shared memory that a kernel can have, and of local memory a thread: what `ptxas` refuses beyond.
const MOST_SHARED: u64 = 48 << 10;
const MOST_LOCAL: u64 = 512 << 10;

/// Stands for the address of dynamic shared memory until all static arrays are placed.
const DYNAMIC: u64 = 0x7fff_dddd_0000_0000;

fn operand(i: &ptx::Instruction, index: usize) -> Result<&Operand> {
    i.operands.get(index).ok_or_else(|| "too few operands".to_string())
}

fn take_space(m: &mut Modifiers) -> Option<Space> {
    m.take_any(&[
        ("global", Space::Global),
        ("const", Space::Const),
        ("shared", Space::Shared),
        ("shared::cta", Space::Shared),
        ("local", Space::Local),
        ("param", Space::Param),
        ("param::entry", Space::Param),
        ("param::func", Space::Param),
    ])
}

fn special(name: &str) -> Result<Special> {
    let axis = |name: &str| match name.rsplit('.').next() {
        Some("x") => Some(0),
        Some("y") => Some(1),
        Some("z") => Some(2),
        _ => None,
    };
    let family = name.split('.').next().unwrap_or("");
    Ok(match (family, axis(name)) {
        ("%tid", Some(axis)) => Special::Thread(axis),
        ("%ntid", Some(axis)) => Special::Threads(axis),
        ("%ctaid", Some(axis)) => Special::Block(axis),
        ("%nctaid", Some(axis)) => Special::Blocks(axis),
        ("%laneid", None) => Special::Lane,
        ("%warpid", None) => Special::Warp,
        ("%nwarpid", None) => Special::Warps,
        ("%lanemask_eq", None) => Special::LaneMaskEqual,
        ("%lanemask_lt", None) => Special::LaneMaskLess,
        ("%lanemask_le", None) => Special::LaneMaskLessEqual,
        ("%lanemask_gt", None) => Special::LaneMaskGreater,
        ("%lanemask_ge", None) => Special::LaneMaskGreaterEqual,
        ("%smid", None) => Special::Multiprocessor,
        ("%nsmid", None) => Special::Multiprocessors,
        ("%dynamic_smem_size", None) => Special::DynamicShared,
        ("%total_smem_size", None) => Special::TotalShared,
        _ => return Err(format!("special register {name} is not modelled")),
    })
}
