use super::*;

/// What `nvcc -lineinfo -O3` makes of a small program with calls, a jump table, inlining, `printf` and inline assembly.
const SAMPLE: &str = include_str!("sample.ptx");

/// A module's text around directives; their first line is line 4.
fn module_text(directives: &str) -> String {
    format!(".version 9.0\n.target sm_75\n.address_size 64\n{directives}")
}

fn module(directives: &str) -> Module {
    let text = module_text(directives);
    parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// A kernel's text with registers and names for every operand; the statements begin on line 7.
fn kernel_text(statements: &str) -> String {
    module_text(&format!(
        ".global .align 4 .b8 buffer[64]; .func callee; .func (.param .b32 r) value (.param .b32 a);\n\
         .entry kernel(.param .u64 input)\n\
         {{ .reg .pred %p<4>; .reg .b32 %r<8>; .reg .b64 %rd<4>; .reg .f32 %f<8>;\n\
         {statements}\n}}\n"
    ))
}

fn kernel(statements: &str) -> Function {
    let text = kernel_text(statements);
    let module = parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    module.functions.into_iter().find(|function| function.entry).unwrap()
}

fn instructions(function: &Function) -> Vec<&Instruction> {
    let statements = function.body.as_deref().unwrap_or(&[]);
    let mut found = Vec::new();
    for statement in statements {
        if let Statement::Instruction(instruction) = statement {
            found.push(instruction);
        }
    }
    found
}

fn register(function: &Function, name: &str) -> u32 {
    function.registers.iter().position(|register| register.name == name).unwrap() as u32
}

/// The operands of a single instruction.
fn operands(text: &str) -> Vec<Operand> {
    let function = kernel(text);
    let instructions = instructions(&function);
    assert_eq!(instructions.len(), 1, "{text}");
    instructions[0].operands.clone()
}

// Indices of the registers of `kernel_text`.
fn p(index: u32) -> u32 {
    index
}
fn r(index: u32) -> u32 {
    4 + index
}
fn rd(index: u32) -> u32 {
    12 + index
}
fn f(index: u32) -> u32 {
    16 + index
}

fn symbol(name: &str, offset: i64) -> Operand {
    Operand::Symbol(name.to_string(), offset)
}

fn variable<'a>(module: &'a Module, name: &str) -> &'a Variable {
    module.variables.iter().find(|variable| variable.name == name).unwrap()
}

#[test]
fn header() {
    let module = parse(
        "/* a\ncomment */ .version 8.5 // another\n.target sm_90a, texmode_independent, debug\n.address_size 64\n\
         .pragma \"nounroll\";\n.file 2 \"/a \\\"b\\\" \\\\c.cu\", 123, 45\n.section .debug_str { { x: .b8 1,2 } .b32 y }\n\
         .file 1 \"b.cu\"\n\0 garbage",
    )
    .unwrap();
    assert_eq!((module.version, module.target), ((8, 5), 90));
    assert_eq!(module.files[&2], "/a \"b\" \\c.cu");
    assert_eq!(module.files[&1], "b.cu");
    assert!(module.functions.is_empty() && module.variables.is_empty());
}

#[test]
fn sample() {
    let module = parse(SAMPLE).unwrap();
    assert_eq!((module.version, module.target), ((9, 0), 75));
    assert_eq!(module.files[&1], "sample.cu");
    // Declared first and defined later: one function each.
    let names: Vec<(&str, bool)> =
        module.functions.iter().map(|function| (function.name.as_str(), function.body.is_some())).collect();
    let expected = [
        ("_Z5twicef", true),
        ("_Z5halvef", true),
        ("vprintf", false),
        ("__assertfail", false),
        ("_Z7recursefi", true),
        ("reduce", true),
        ("choose", true),
    ];
    assert_eq!(names, expected);
    let functions = variable(&module, "functions");
    assert_eq!((functions.size, functions.ty, functions.relocations.len()), (Some(16), Type::U64, 2));
    assert_eq!((functions.relocations[1].offset, functions.relocations[1].symbol.as_str()), (8, "_Z5halvef"));
    let reduce = &module.functions[5];
    assert!(reduce.entry && reduce.max_threads == Some([256, 1, 1]) && reduce.required_threads.is_none());
    assert_eq!((reduce.parameters[2].size, reduce.parameters[2].align), (Some(32), 8));
    assert_eq!(reduce.parameters[2].space, Space::Param);
    let fixed = reduce.variables.iter().find(|variable| variable.name == "_ZZ6reduceE5fixed").unwrap();
    assert_eq!((fixed.space, fixed.size), (Space::Shared, Some(128)));
    // The call sequences' own variables.
    let parameters: Vec<&str> = reduce
        .variables
        .iter()
        .map(|variable| variable.name.as_str())
        .filter(|name| name.starts_with("param0"))
        .collect();
    assert_eq!(parameters, ["param0", "param0@2", "param0@3", "param0@4"]);
    // The jump table.
    let choose = &module.functions[6];
    let table = choose.body.as_ref().unwrap().iter().find_map(|statement| match statement {
        Statement::BranchTargets(label, targets) => Some((*label, targets)),
        _ => None,
    });
    let (label, targets) = table.unwrap();
    assert_eq!((choose.labels[label as usize].as_str(), targets.len()), ("$L_brx_0", 8));
    let brx = instructions(choose).into_iter().find(|instruction| instruction.opcode[0] == "brx").unwrap();
    assert_eq!(brx.opcode, ["brx", "idx"]);
    assert_eq!(brx.operands[1], Operand::Label(label));
}

#[test]
fn inlined_locations_name_the_outermost_call() {
    let module = parse(SAMPLE).unwrap();
    let reduce = &module.functions[5];
    let locations: Vec<Location> = instructions(reduce).iter().filter_map(|found| found.location).collect();
    let shuffle =
        instructions(reduce).into_iter().find(|instruction| instruction.opcode[0] == "shfl").unwrap();
    // The header's function, in `inner` (14), in `middle` (17), in the kernel at line 25.
    assert_eq!(shuffle.location, Some(Location { file: 2, line: 449, inlined_at: Some((1, 25)) }));
    assert!(locations.contains(&Location { file: 1, line: 14, inlined_at: Some((1, 25)) }));
    assert!(locations.contains(&Location { file: 1, line: 24, inlined_at: None }));

    let function = kernel(
        "mov.u32 %r1, 0;\n.loc 1 9 3\n.loc 1 7 5, function_name $a, inlined_at 1 9 3\n\
         .loc 2 4 4, function_name $b+0x10, inlined_at 1 7 5\nmov.u32 %r1, 1;\n\
         .loc 1 7 5, function_name $a, inlined_at 1 20 3\n.loc 2 4 4, function_name $b, inlined_at 1 7 5\n\
         mov.u32 %r1, 2;\n.loc 3 1 1, inlined_at 3 5 5\nmov.u32 %r1, 3;\n.loc 1 9 3\nlabel: mov.u32 %r1, 4;",
    );
    let locations: Vec<_> = instructions(&function).iter().map(|found| found.location).collect();
    let location = |file, line, inlined_at| Some(Location { file, line, inlined_at });
    assert_eq!(
        locations,
        [
            None,
            location(2, 4, Some((1, 9))),
            location(2, 4, Some((1, 20))),
            location(3, 1, Some((3, 5))),
            location(1, 9, None)
        ]
    );
    assert_eq!(instructions(&function)[1].line, 11);
}

#[test]
fn variables() {
    let module = module(
        ".visible .global .align 16 .v4 .f32 four[3];\n.extern .shared .align 16 .b8 dynamic[];\n\
         .weak .const .u32 a = 0x10, b[] = {1, -2, 0b101, 017, 4294967295U}, c;\n.common .global .u16 d[2][3][4];\n\
         .global .attribute(.managed) .align 4 .u32 managed = 3;\n.global .attribute(.unified(1, 2)) .s8 e;\n\
         .global .v2 .b64 pair = {1, 2};\n.shared .f64 tile[(1<<3)+2];",
    );
    let four = variable(&module, "four");
    assert_eq!((four.align, four.ty, four.size, four.external), (16, Type::F32, Some(48), false));
    let dynamic = variable(&module, "dynamic");
    assert_eq!(
        (dynamic.space, dynamic.size, dynamic.external, dynamic.align),
        (Space::Shared, None, true, 16)
    );
    let b = variable(&module, "b");
    assert_eq!((b.space, b.size, b.align), (Space::Const, Some(20), 4));
    let words: Vec<u32> = [1, -2i32 as u32, 5, 15, u32::MAX].into();
    assert_eq!(
        b.initial.as_deref().unwrap(),
        words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>()
    );
    assert_eq!(variable(&module, "a").initial.as_deref(), Some(&[16, 0, 0, 0][..]));
    assert_eq!(variable(&module, "c").initial, None);
    assert_eq!((variable(&module, "d").size, variable(&module, "d").align), (Some(48), 2));
    assert_eq!(variable(&module, "managed").initial.as_deref(), Some(&[3, 0, 0, 0][..]));
    assert_eq!(variable(&module, "e").align, 1);
    assert_eq!((variable(&module, "pair").align, variable(&module, "pair").size), (16, Some(16)));
    assert_eq!(variable(&module, "tile").size, Some(80));
}

#[test]
fn initialisers() {
    let module = module(
        ".global .f32 f[5] = {0f3F800000, 1.5, -2, .5, 1e-1};\n.global .f64 d[3] = {0d3FF0000000000000, -0.1, 0f3F800000};\n\
         .global .b32 bits = 0fFF800000;\n.global .b64 wide = 0d8000000000000000;\n\
         .global .s16 nested[3][2] = {{1}, {-2, 3}, 4};\n.global .b8 open[][4] = {{1}, {2, 3}};\n\
         .global .v2 .u8 vectors[2] = {{1, 2}, {3, 4}};\n.global .u64 big = 18446744073709551615;\n\
         .global .b128 huge = -1;\n.global .u8 scalar = {7};\n.global .u8 expression = 1 ? (2+3)*4 : 9;\n\
         .global .b8 empty[3] = {};\n.global .u8 short[4] = {1, 2, 3,};",
    );
    let initial = |name: &str| variable(&module, name).initial.clone().unwrap();
    let floats: Vec<f32> =
        initial("f").chunks(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect();
    assert_eq!(floats, [1.0, 1.5, -2.0, 0.5, 0.1]);
    let doubles: Vec<f64> =
        initial("d").chunks(8).map(|bytes| f64::from_le_bytes(bytes.try_into().unwrap())).collect();
    assert_eq!(doubles, [1.0, -0.1, 1.0]);
    assert_eq!(initial("bits"), 0xff80_0000u32.to_le_bytes());
    assert_eq!(initial("wide"), (1u64 << 63).to_le_bytes());
    // Elements that are left out are zero; those at the end are not even written.
    assert_eq!(initial("nested"), [1, 0, 0, 0, 0xfe, 0xff, 3, 0, 4, 0]);
    assert_eq!((initial("open"), variable(&module, "open").size), (vec![1, 0, 0, 0, 2, 3], Some(8)));
    assert_eq!(initial("vectors"), [1, 2, 3, 4]);
    assert_eq!(initial("big"), [0xff; 8]);
    assert_eq!(initial("huge"), [0xff; 16]);
    assert_eq!((initial("scalar"), initial("expression")), (vec![7], vec![20]));
    assert_eq!((initial("empty"), initial("short")), (vec![], vec![1, 2, 3]));
}

#[test]
fn addresses_in_initialisers() {
    let module = module(
        ".global .u64 table[4] = {later, generic(table)+8, later-0x10+4, 5};\n.global .b64 one = generic(table);\n\
         .func later { ret; }",
    );
    let table = variable(&module, "table");
    let relocations: Vec<_> = table
        .relocations
        .iter()
        .map(|found| (found.offset, found.symbol.as_str(), found.addend, found.generic))
        .collect();
    assert_eq!(relocations, [(0, "later", 0, false), (8, "table", 8, true), (16, "later", -12, false)]);
    assert_eq!(table.initial.as_ref().unwrap()[24..], 5u64.to_le_bytes());
    assert_eq!(table.initial.as_ref().unwrap()[..24], [0; 24]);
    assert_eq!(variable(&module, "one").relocations.len(), 1);
}

#[test]
fn functions() {
    let module = module(
        ".extern .func (.param .b32 result) outside (.param .b64 a, .param .b32 _, .param .b32 _) .noreturn;\n\
         .visible .entry empty { ret; }\n\
         .weak .entry bare() .maxntid 128 .reqntid 8, 4 .minnctapersm 2 .maxnreg 64 .maxclusterrank 8 { ret; };\n\
         .func (.param .align 16 .b8 out[16]) many (.param .u64 .ptr .global .align 1 q, .param .align 8 .b8 p[24],\n\
         .param .u64.ptr.shared.align 4 s, .param .f32 x) { ret; }\n.visible .entry empty;",
    );
    let names: Vec<&str> = module.functions.iter().map(|function| function.name.as_str()).collect();
    assert_eq!(names, ["outside", "empty", "bare", "many"]);
    let outside = &module.functions[0];
    assert!(
        outside.body.is_none()
            && !outside.entry
            && outside.parameters.len() == 3
            && outside.returns.len() == 1
    );
    assert!(module.functions[1].body.is_some() && module.functions[1].entry);
    let bare = &module.functions[2];
    assert_eq!(bare.max_threads, Some([128, 1, 1]));
    assert_eq!((bare.required_threads, bare.max_registers), (Some([8, 4, 1]), Some(64)));
    let many = &module.functions[3];
    assert_eq!((many.returns[0].size, many.returns[0].align), (Some(16), 16));
    let layout: Vec<_> = many.parameters.iter().map(|found| (found.size, found.align, found.ty)).collect();
    assert_eq!(
        layout,
        [(Some(8), 8, Type::U64), (Some(24), 8, Type::B8), (Some(8), 8, Type::U64), (Some(4), 4, Type::F32)]
    );
}

#[test]
fn opcodes_and_predicates() {
    let function = kernel(
        "@%p1 ld.global.nc.L1::no_allocate.L2::128B.v2.f32 {%f1, %f2}, [%rd1];\n@!%p2 bra.uni end;\nend: bar.sync 0;\n\
         @%p0 trap;;\n.pragma \"nounroll\";\nmembar.gl;\ntex.2d;\nret;",
    );
    let found = instructions(&function);
    assert_eq!(found[0].opcode, ["ld", "global", "nc", "L1::no_allocate", "L2::128B", "v2", "f32"]);
    assert_eq!(found[0].predicate, Some((p(1), false)));
    assert_eq!((found[1].predicate, &found[1].operands), (Some((p(2), true)), &vec![Operand::Label(0)]));
    assert_eq!((found[2].opcode.len(), &found[2].operands), (2, &vec![Operand::Integer(0)]));
    assert_eq!((found[3].predicate, found[3].operands.len(), found[3].line), (Some((p(0), false)), 0, 10));
    assert_eq!(found[5].opcode, ["tex", "2d"]);
    assert!(matches!(function.body.as_ref().unwrap()[2], Statement::Label(0)));
    assert_eq!(found[6].location, None);
}

#[test]
fn operand_forms() {
    use Operand::*;
    let one = |text: &str| operands(&format!("op {text};")).remove(0);
    let vector = |elements: &[Operand]| Vector(elements.to_vec());
    let pair = |first, second| Pair(Box::new(first), Box::new(second));
    let address = |base, offset| Address(base, offset);
    let cases = [
        ("%r3", Register(r(3))),
        ("!%p1", NotRegister(p(1))),
        ("%tid.x", Special("%tid.x".to_string())),
        ("%laneid", Special("%laneid".to_string())),
        ("%clock64", Special("%clock64".to_string())),
        ("%envreg31", Special("%envreg31".to_string())),
        ("%lanemask_lt", Special("%lanemask_lt".to_string())),
        ("0x1F", Integer(31)),
        ("0X1fU", Integer(31)),
        ("-1", Integer(u64::MAX)),
        ("4294967295", Integer(u64::from(u32::MAX))),
        ("18446744073709551615", Integer(u64::MAX)),
        ("-9223372036854775808", Integer(1 << 63)),
        ("WARP_SZ", Integer(32)),
        ("WARP_SZ*2", Integer(64)),
        ("!WARP_SZ", Integer(0)),
        ("(1<<3)+2", Integer(10)),
        ("0 ? 1 : 0x1e+4", Integer(34)),
        ("0f3F800000", Float(0x3f80_0000)),
        ("0Fff800000", Float(0xff80_0000)),
        ("0d3FF0000000000000", Double(1f64.to_bits())),
        ("-1.5", Double((-1.5f64).to_bits())),
        ("buffer", symbol("buffer", 0)),
        ("buffer+8", symbol("buffer", 8)),
        ("buffer - 8 + (1<<1)", symbol("buffer", -6)),
        ("input", symbol("input", 0)),
        ("callee", symbol("callee", 0)),
        ("kernel", symbol("kernel", 0)),
        ("[%rd1]", address(Base::Register(rd(1)), 0)),
        ("[%rd1+16]", address(Base::Register(rd(1)), 16)),
        ("[%rd1+-4]", address(Base::Register(rd(1)), -4)),
        ("[%rd1-4]", address(Base::Register(rd(1)), -4)),
        ("[%rd1+0x10]", address(Base::Register(rd(1)), 16)),
        ("[buffer+4]", address(Base::Symbol("buffer".to_string()), 4)),
        ("[input]", address(Base::Symbol("input".to_string()), 0)),
        ("[64]", address(Base::Absolute, 64)),
        ("[32+WARP_SZ]", address(Base::Absolute, 64)),
        ("{%r1, 5, _}", vector(&[Register(r(1)), Integer(5), Sink])),
        ("%p1|%p2", pair(Register(p(1)), Register(p(2)))),
        ("%r1|%p0", pair(Register(r(1)), Register(p(0)))),
        ("_|%p0", pair(Sink, Register(p(0)))),
        ("%p3 | _", pair(Register(p(3)), Sink)),
        ("_", Sink),
    ];
    for (text, expected) in cases {
        assert_eq!(one(text), expected, "{text}");
    }
    assert_eq!(
        operands("shfl.sync.bfly.b32 %r1|%p1, %r2, 3, 31, -1;"),
        [pair(Register(r(1)), Register(p(1))), Register(r(2)), Integer(3), Integer(31), Integer(u64::MAX)]
    );
    assert_eq!(operands("st.v2.f32 [%rd0], {%f0, %f7};")[1], vector(&[Register(f(0)), Register(f(7))]));
}

#[test]
fn constant_expressions() {
    let value = |text: &str| match &operands(&format!("op {text};"))[..] {
        [Operand::Integer(bits)] => *bits as i64,
        other => panic!("{text}: {other:?}"),
    };
    let cases = [
        ("1+2*3-4", 3),
        ("10-3-2", 5),
        ("-7/2", -3),
        ("-7%2 + 0", -1),
        ("7 % 4", 3),
        ("~0", -1),
        ("!5 + !0", 1),
        ("1<2 && 2<1 || 3==3", 1),
        ("5&6|8^1", 13),
        ("-8>>1", -4),
        ("-1 >> 63U", -1),
        ("0xFFFFFFFFFFFFFFFF >> 60", 15),
        ("1<<64", 0),
        ("-1 < 1U", 0),
        ("(.s64) -1 < 1", 1),
        ("(.u64)-1 > 1", 1),
        ("1 != 1 ? 2 : 3 >= 3 ? 4 : 5", 4),
        ("1.5 < 2", 1),
        ("-(-9223372036854775807-1)/-1", i64::MIN),
    ];
    for (text, expected) in cases {
        // `%2` would be a register's name, as in the assembler.
        let text = text.replace("%2", "% 2");
        assert_eq!(value(&text), expected, "{text}");
    }
    assert_eq!(operands("op 1.5+2*2;"), [Operand::Double(5.5f64.to_bits())]);
}

#[test]
fn calls() {
    let function = kernel(
        "{ .reg .b64 target; .param .b32 a; .param .b32 b;\ncall callee;\ncall.uni (a), value, (b);\ncall (a), value, (%r1);\n\
         call callee, ();\nproto: .callprototype (.param .b32 _) _ (.param .b32 _);\nlist: .calltargets callee, value;\n\
         call (a), target, (b), proto;\ncall target, list; }",
    );
    let calls = instructions(&function);
    let list = |names: &[&str]| Operand::Arguments(names.iter().map(|name| symbol(name, 0)).collect());
    let named = |name: &str| Operand::Function(name.to_string());
    let target = Operand::Register(register(&function, "target"));
    assert_eq!(calls[0].operands, [list(&[]), named("callee"), list(&[])]);
    assert_eq!(calls[1].operands, [list(&["a"]), named("value"), list(&["b"])]);
    assert_eq!(calls[1].opcode, ["call", "uni"]);
    assert_eq!(calls[2].operands[2], Operand::Arguments(vec![Operand::Register(r(1))]));
    assert_eq!(calls[3].operands, [list(&[]), named("callee"), list(&[])]);
    assert_eq!(calls[4].operands, [list(&["a"]), target.clone(), list(&["b"])]);
    assert_eq!(calls[5].operands, [list(&[]), target, list(&[])]);
    // Prototypes leave no label behind.
    assert!(function.labels.is_empty());
}

#[test]
fn a_function_calls_itself() {
    let module = module(".func f (.param .b32 a) { .param .b32 x; call f, (x); ret; }");
    assert_eq!(instructions(&module.functions[0])[0].operands[1], Operand::Function("f".to_string()));
}

#[test]
fn scopes() {
    let function = kernel(
        ".reg .b32 x;\n.param .b32 param0;\nmov.b32 x, 0;\nagain:\n\
         { .reg .f32 x, %r<2>; .param .b32 param0; .shared .align 8 .b8 buffer[8]; .param .b32 input;\n\
         mov.f32 x, %r1; mov.b32 %r2, param0; mov.b64 %rd0, buffer; mov.b64 %rd0, input; bra again;\nagain: bra again; }\n\
         { .param .b32 param0; mov.b32 x, [param0+4]; bra again; bra after; after: }\n\
         mov.b32 x, param0; mov.b64 %rd0, buffer; mov.b32 %r1, %r0;",
    );
    let first = register(&function, "x");
    let second = function.registers.iter().rposition(|register| register.name == "x").unwrap() as u32;
    assert_ne!(first, second);
    let found: Vec<_> = instructions(&function).iter().map(|found| found.operands.clone()).collect();
    let operand = |instruction: usize, index: usize| found[instruction][index].clone();
    assert_eq!(operand(0, 0), Operand::Register(first));
    assert_eq!(found[1], [Operand::Register(second), Operand::Register(second + 2)]);
    // `%r2` is past the inner `%r<2>`, so it is the outer one.
    assert_eq!(found[2], [Operand::Register(r(2)), symbol("param0@2", 0)]);
    assert_eq!((operand(3, 1), operand(4, 1)), (symbol("buffer@2", 0), symbol("input@2", 0)));
    assert_eq!(function.labels, ["again", "again", "after"]);
    assert_eq!(
        (operand(5, 0), operand(6, 0), operand(8, 0)),
        (Operand::Label(1), Operand::Label(1), Operand::Label(0))
    );
    assert_eq!(found[7][1], Operand::Address(Base::Symbol("param0@3".to_string()), 4));
    assert_eq!((operand(10, 1), operand(11, 1)), (symbol("param0", 0), symbol("buffer", 0)));
    assert_eq!(found[12], [Operand::Register(r(1)), Operand::Register(r(0))]);
    let names: Vec<&str> = function.variables.iter().map(|variable| variable.name.as_str()).collect();
    assert_eq!(names, ["param0", "param0@2", "buffer@2", "input@2", "param0@3"]);
    // An inner single register hides one of an outer family, and the family comes back behind it.
    let function = kernel("{ .reg .b32 %r1; { .reg .b32 %r<2>; neg.s32 %r1; } neg.s32 %r1; } neg.s32 %r1;");
    let used: Vec<_> = instructions(&function).iter().map(|found| found.operands[0].clone()).collect();
    assert_eq!(used, [Operand::Register(26), Operand::Register(24), Operand::Register(r(1))]);
}

#[test]
fn branch_targets() {
    let function = kernel("brx.idx %r1, table;\ntable: .branchtargets a, b, a;\na: b: ret;");
    let body = function.body.as_ref().unwrap();
    assert_eq!(function.labels, ["table", "a", "b"]);
    assert!(matches!(&body[1], Statement::BranchTargets(0, targets) if targets == &[1, 2, 1]));
    assert!(matches!((&body[2], &body[3]), (Statement::Label(1), Statement::Label(2))));
    assert_eq!(instructions(&function)[0].operands, [Operand::Register(r(1)), Operand::Label(0)]);
}

fn error_of(text: &str) -> String {
    match parse(text) {
        Ok(_) => panic!("no error in {text}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn errors_of_modules() {
    let texts = [
        ("", "1:1: expected `.version`, found the end of the text"),
        (".version nine", "1:10: expected a version such as `9.0`, found `nine`"),
        (".version 9.0 .global", "1:14: expected `.target`, found `.global`"),
        (".version 9.0 .target debug", "1:27: expected a target such as `sm_75`, found the end of the text"),
        (".version 9.0 .target sm_x1", "1:22: expected a target such as `sm_75`, found `sm_x1`"),
        ("\n  /* x", "2:3: this comment does not end"),
        ("ü \"x\ny\"", "1:1: unexpected character `ü`"),
        ("\"x\ny\"", "1:1: this string does not end on its line"),
    ];
    for (text, expected) in texts {
        assert_eq!(error_of(text), format!("PTX {expected}"), "{text}");
    }
    let directives = [
        ("ret;", "4:1: expected a directive such as `.visible` or `.global`, found `ret`"),
        (".alias a, b;", "4:1: `.alias` is not supported"),
        (".address_size 32", "4:15: only addresses of 64 bits are supported"),
        (".visible 3", "4:10: expected `.entry`, `.func` or a state space, found `3`"),
        (".section .debug_str {\n{ }", "4:21: this `{` is not closed"),
        (".global .texref t;", "4:9: `.texref` is not supported"),
        (".tex .u32 t;", "4:1: texture references are not supported"),
        (".global .pred q;", "4:9: a `.pred` cannot be in memory"),
        (".global .b24 x;", "4:9: expected a type, found `.b24`"),
        (".global x;", "4:9: expected a type, found `x`"),
        (".global .align 3 .b8 x;", "4:16: an alignment of 3 is no power of two"),
        (".global .b8 x<4>;", "4:14: only registers can be declared as `name<count>`"),
        (".global .b8 x[2][];", "4:17: only the first dimension can be left open"),
        (".global .b64 x[1<<40][1<<40];", "4:14: `x` is larger than an address space"),
        (".global .b8 x; .global .b8 x;", "4:28: `x` is declared twice"),
        (".global .b8 x; .func x;", "4:22: `x` is declared twice"),
        (".global .b8 x[2] = {1, 2, 3};", "4:27: more values than the variable has elements"),
        (".global .b8 x[2][2] = {1, {2}};", "4:27: this `{` is in the middle of an element"),
        (".global .b8 x[2] = {{1}};", "4:21: expected a value, found `{`"),
        (".global .b8 x = ;", "4:17: expected a value, found `;`"),
        (".global .b8 x = 1.5;", "4:17: expected an integer, found a floating-point constant"),
        (".global .f16 x = 1.5;", "4:18: variables of halves take their initialisers as `.b16`"),
        (".global .b8 x = 0xFF(y);", "4:17: masks of addresses such as `0xFF(symbol)` are not supported"),
        (".global .b32 x = x;", "4:18: the address of `x` needs an element of 8 bytes"),
        (".global .b64 x = generic(y);", "4:26: unknown name `y`"),
        (".global .b8 x[] = {1} y", "4:23: expected `;`, found `y`"),
        (".shared .b8 x = 1;", "4:15: a .shared variable cannot have an initialiser"),
        (
            ".global .b8 x[1][1<<40] = {{1}};\n.global .b8 y[2][1<<40] = {{1},{2}};",
            "5:33: an initialiser of more than 64 MiB",
        ),
        (".func (.reg .b32 r) f;", "4:8: parameters in registers are not supported"),
        (".func f(.param .b32 a, .param .b32 a);", "4:36: `a` is declared twice"),
        (".func f { } .func f { }", "4:19: `f` is defined twice"),
        (".entry f .fast { }", "4:10: expected `{`, `;` or a directive such as `.maxntid`, found `.fast`"),
        (".entry f = 3", "4:10: expected `{`, `;` or a directive such as `.maxntid`, found `=`"),
        (".entry f .maxntid 4294967296 { }", "4:19: 4294967296 does not fit 32 bits"),
        (".entry f { ret;", "4:10: the body of `f` is not closed"),
        (".entry f { #", "4:12: unexpected character `#`"),
    ];
    for (text, expected) in directives {
        assert_eq!(error_of(&module_text(text)), format!("PTX {expected}"), "{text}");
    }
}

#[test]
fn errors_of_statements() {
    let statements = [
        ("mov.u32 %r9, 1;", "7:9: unknown register `%r9`"),
        ("mov.u32 %r01, 1;", "7:9: unknown register `%r01`"),
        ("mov.u32 %r1, nowhere;", "7:14: unknown name `nowhere`"),
        ("bra nowhere;", "7:5: unknown name `nowhere`"),
        ("{ a: } bra a;", "7:12: unknown name `a`"),
        ("{ .reg .b32 x; } neg.s32 x;", "7:26: unknown name `x`"),
        ("call nothing;", "7:6: unknown function `nothing`"),
        ("call %rd7;", "7:6: unknown register `%rd7`"),
        ("call buffer;", "7:6: `buffer` is no function"),
        ("call callee, (), nothing;", "7:18: unknown prototype `nothing`"),
        ("@%q1 ret;", "7:2: unknown register `%q1`"),
        ("@buffer ret;", "7:2: unknown name `buffer`"),
        ("mov.u32 %r1, %tid.q;", "7:18: `%tid` has no component `.q`"),
        ("mov.u32 %r1, %laneid.x;", "7:21: `%laneid` has no component `.x`"),
        (
            "vadd.u32.u32.u32 %r1, %r2.b0, %r3;",
            "7:26: selectors of a register's parts such as `.b0` are not supported",
        ),
        ("tex.2d.v4.f32.f32 {%f0}, [buffer, {%f1}];", "7:33: the operands of textures are not supported"),
        ("mov.u64 %rd1, buffer[2];", "7:21: subscripts of arrays are not supported"),
        ("ld.u32 %r1, [%rd1+%rd2];", "7:19: expected a constant offset, found `%rd2`"),
        ("ld.u32 %r1, [%rd1+1.5];", "7:18: an offset is an integer"),
        ("ld.u32 %r1, [1.5];", "7:14: expected an address, found a floating-point constant"),
        ("a: ld.u32 %r1, [a];", "7:17: the label `a` is no address"),
        ("ld.u32 %r1, [%rd1;", "7:18: expected `]`, found `;`"),
        ("mov.b64 {%r1, {%r2}}, 1;", "7:15: expected a vector's element, found `{`"),
        ("mov.u32 %r1, 0x1G;", "7:14: malformed number `0x1G`"),
        ("mov.u32 %r1, 09;", "7:14: malformed number `09`"),
        ("mov.u32 %r1, 1.2.3;", "7:14: malformed number `1.2.3`"),
        ("mov.u32 %r1, 18446744073709551616;", "7:14: `18446744073709551616` does not fit 64 bits"),
        ("mov.f32 %f1, 0f3F8;", "7:14: `0f3F8` needs 8 hexadecimal digits"),
        ("mov.f32 %f1, 0d3F8;", "7:14: `0d3F8` needs 16 hexadecimal digits"),
        ("mov.f32 %f1, -0f3F800000;", "7:14: `0f3F800000` cannot be part of an expression"),
        ("mov.u32 %r1, 1/0;", "7:15: division by zero"),
        ("mov.u32 %r1, 1.5%1;", "7:17: expected `,` or `;`, found `%1`"),
        ("mov.u32 %r1, ~1.5;", "7:14: this operator takes integers only"),
        ("mov.u32 %r1, (1;", "7:16: expected `)`, found `;`"),
        ("mov.u32 %r1, 1 %r2;", "7:16: expected `,` or `;`, found `%r2`"),
        ("mov.u32 %r1, ;", "7:14: expected an operand, found `;`"),
        ("mov.u32 %r1 = 2;", "7:13: expected `,` or `;`, found `=`"),
        ("setp.lt.s32 %p1|buffer, 1, 2;", "7:17: unknown name `buffer`"),
        (".reg .v2 .f32 x;", "7:6: vectors as registers are not supported"),
        (".reg .f31 x;", "7:6: expected a register's type, found `.f31`"),
        (".reg .f32 x, x;", "7:14: register `x` is declared twice in its scope"),
        (".reg .f32 %r1;", "7:11: register `%r1` is declared twice in its scope"),
        (".reg .f32 %r<9>;", "7:11: register `%r` is declared twice in its scope"),
        (".reg .f32 x<4294967295>;", "7:11: more than 1048576 registers"),
        (".param .b32 x; .param .b32 x;", "7:28: `x` is declared twice in its scope"),
        ("x: ret; x: ret;", "7:9: label `x` is declared twice in its scope"),
        (".global .b32 x;", "7:1: `.global` variables within a function are not supported"),
        (".branchtargets x;", "7:1: a label must stand before `.branchtargets`"),
        ("t: .branchtargets x;", "7:19: unknown label `x`"),
        (".maxntid 3;", "7:1: expected an instruction, a label or a directive, found `.maxntid`"),
        ("3;", "7:1: expected an instruction, a label or a directive, found `3`"),
        (".loc 1 2;", "7:9: expected a column, found `;`"),
        (".loc 1 2 3, within 4", "7:13: expected `function_name` or `inlined_at`, found `within`"),
        ("/* ü */ mov.u32 §", "7:17: unexpected character `§`"),
    ];
    for (text, expected) in statements {
        assert_eq!(error_of(&kernel_text(text)), format!("PTX {expected}"), "{text}");
    }
}

#[test]
fn deep_nesting_is_an_error() {
    let deep = 100_000;
    let statements = [
        "{".repeat(deep),
        format!("mov.u32 %r1, {}1;", "(".repeat(deep)),
        format!("mov.u32 %r1, {}1;", "-".repeat(deep)),
        format!("mov.u32 %r1, {}1;", "1?".repeat(deep)),
        format!("mov.u32 %r1, {}1;", "(.s64)".repeat(deep)),
        format!("mov.u32 %r1, 1{};", "+(1".repeat(deep)),
        format!("mov.u32 %r1, 1{};", "?1:1".repeat(deep)),
    ];
    for text in statements {
        assert!(parse(&kernel_text(&text)).is_err());
    }
    let array = format!(".global .b8 x{} = {}1;", "[1]".repeat(deep), "{".repeat(deep));
    assert!(parse(&module_text(&array)).is_err());
    assert_eq!(variable(&module(".global .b8 x[2][0];"), "x").size, Some(0));
    assert!(parse(&module_text(".global .b8 x[2][0] = {{},{}};")).is_err());
    let _ = parse(&module_text(".global .b8 x[][0] = {{},{}};"));
}

/// A small generator, the same on every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((self.0 >> 33) % limit.max(1) as u64) as usize
    }
}

/// Damages real texts in every way that comes to mind: whatever comes out is a module or an error, never a panic.
#[test]
fn damaged_texts_do_not_panic() {
    let rich = kernel_text(
        "{ .reg .b32 x<4>; .shared .v4 .f32 q[2][3]; setp.lt.s32 %p1|%p2, (1<<3)+WARP_SZ, x1; }\n\
         call (x), value, (%r1, 0f3F800000);\nt: .branchtargets t; .loc 1 2 3, function_name a+4, inlined_at 4 5 6\n\
         st.v2.f32 [%rd1+-4], {%f1, _}; mov.u32 %r1, 1 ? 2/3 : 4 % 5; @!%p1 bra t;",
    ) + ".global .u64 e[2][2] = {{kernel, generic(buffer)+8}, {0d3FF0000000000000, -1}}; .const .f32 g[] = {1e5, .5};";
    let splices = [
        "{",
        "}",
        "(",
        ")",
        "[",
        "]",
        ";",
        ",",
        ":",
        "::",
        "@",
        "!",
        "|",
        "%",
        "<",
        ">",
        "=",
        "-",
        "+",
        "?",
        ".",
        "_",
        "0x",
        "0f",
        "\"",
        "/*",
        "//",
        "\n",
        "\0",
        "ü",
        "€",
        "\u{1F600}",
        "18446744073709551615",
        "-9223372036854775808",
        "WARP_SZ",
        ".reg",
        ".b32",
        ".param",
        "%r",
        "%r1",
        "%r99999999999",
        "<4294967295>",
        "[1<<62]",
        ".align",
        "generic(",
        "0d",
        "1e+",
        "/ 0",
        "% -1",
        "/ -1",
        "{{{{",
        "[][0]",
        "[0]",
        "= {",
        ".v4",
        ".loc 1 1 1",
        "inlined_at 1 1 1",
        "call",
        ".branchtargets",
        ".callprototype",
        "<<",
        ">>",
    ];
    let mut random = Random(20);
    let (mut accepted, mut refused) = (0, 0);
    for round in 0..6000 {
        let source = if round % 2 == 0 { SAMPLE } else { rich.as_str() };
        // Mostly a window of a long text, behind the header, so that the rounds stay short.
        let mut characters: Vec<char> = source.chars().collect();
        for _ in 0..1 + random.below(8) {
            let at = random.below(characters.len());
            let to = (at + random.below(30)).min(characters.len());
            match random.below(6) {
                0 => drop(characters.drain(at..to)),
                1 => {
                    let piece: Vec<char> = splices[random.below(splices.len())].chars().collect();
                    characters.splice(at..at, piece);
                }
                2 => {
                    let piece: Vec<char> = splices[random.below(splices.len())].chars().collect();
                    characters.splice(at..to.min(at + 3), piece);
                }
                3 => {
                    let from = random.below(characters.len());
                    let piece: Vec<char> = characters[from..(from + 20).min(characters.len())].to_vec();
                    characters.splice(at..at, piece);
                }
                4 if at < characters.len() => characters[at] = char::from(random.below(127) as u8),
                _ => characters.truncate(at.max(random.below(characters.len()))),
            }
        }
        let text: String = characters.into_iter().collect();
        match parse(&text) {
            Ok(_) => accepted += 1,
            Err(error) => {
                refused += 1;
                assert!(error.line as usize <= text.lines().count() + 1 && error.column > 0, "{error}");
            }
        }
    }
    // The damage is neither harmless nor always fatal at the start.
    assert!(accepted > 50 && refused > 1000, "{accepted} accepted, {refused} refused");
}
