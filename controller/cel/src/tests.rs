use super::*;
use serde_json::json;

fn activation() -> Activation<'static> {
    let mut variables = Activation::default();
    variables.set_json(
        "self",
        &json!({"a": 1, "s": "abc", "l": [1, 2, 3], "m": {"x": 1, "y": 2}, "o": {"namespace": "n", "b-c": 5}, "f": 1.5,
            "e": [{"name": "one", "v": 1}, {"name": "two", "v": 2}], "q": "500m", "t": "2024-05-01T10:00:00Z", "nil": null}),
    );
    variables
}

fn evaluate(source: &str) -> Result<serde_json::Value, String> {
    let environment = Environment::new(&["self"]).with_messages();
    let program = compile(source, &environment).map_err(|error| error.to_string())?;
    program.evaluate_json(&activation(), &Budget::default()).map_err(|error| error.to_string())
}

#[test]
fn values_are_those_of_the_language() {
    for (source, want) in [
        ("1 + 2 * 3 - 4 / 2 % 3", json!(5)),
        ("-2 - -3", json!(1)),
        ("self.a == 1 && self.s == 'abc'", json!(true)),
        ("self.l.all(x, x > 0) && self.l.exists(x, x == 3) && self.l.exists_one(x, x == 2)", json!(true)),
        ("self.l.map(x, x * 2)", json!([2, 4, 6])),
        ("self.l.map(x, x > 1, x * 2)", json!([4, 6])),
        ("self.l.filter(x, x != 2)", json!([1, 3])),
        ("self.m.all(k, k in ['x', 'y'])", json!(true)),
        ("self.m.map(k, self.m[k]).sort()", json!([1, 2])),
        ("self.m.transformMap(k, v, v + 1)", json!({"x": 2, "y": 3})),
        ("self.l.transformList(i, v, i + v)", json!([1, 3, 5])),
        ("self.e.exists(i, v, i == 1 && v.name == 'two')", json!(true)),
        ("has(self.a) && !has(self.zzz) && has(self.m.x)", json!(true)),
        ("self.zzz == 1 || true", json!(true)),
        ("true || self.zzz == 1", json!(true)),
        ("self.zzz == 1 && false", json!(false)),
        ("self.?zzz.orValue(7)", json!(7)),
        ("self.?a.orValue(7)", json!(1)),
        ("self.?m.?x.hasValue()", json!(true)),
        ("self.?zzz.?x.hasValue()", json!(false)),
        ("self.l[?9].orValue(0)", json!(0)),
        ("[1, ?optional.none(), ?optional.of(3)]", json!([1, 3])),
        ("{?'a': optional.none(), 'b': 2}", json!({"b": 2})),
        ("optional.of(2).optMap(x, x + 1).value()", json!(3)),
        ("cel.bind(x, self.a + 1, x * x)", json!(4)),
        ("self.o.__namespace__ + string(self.o.b__dash__c)", json!("n5")),
        ("self.o.`b-c`", json!(5)),
        ("size('\u{e9}x') + size(self.l) + self.m.size()", json!(7)),
        ("type(self.a) == int && type(self.s) == string && type(1.0) == double", json!(true)),
        ("'a,b'.split(',').join('-') + 'x'.upperAscii()", json!("a-bX")),
        ("self.s.matches('^a.c$') && !self.s.matches('^b')", json!(true)),
        ("quantity(self.q).isLessThan(quantity('1'))", json!(true)),
        ("timestamp(self.t).getFullYear()", json!(2024)),
        ("timestamp(self.t) + duration('1h') > timestamp(self.t)", json!(true)),
        ("isIP('10.0.0.1') && cidr('10.0.0.0/8').containsIP('10.1.2.3')", json!(true)),
        ("url('https://a:8080/p').getHost()", json!("a:8080")),
        ("semver('1.2.3').isLessThan(semver('1.3.0'))", json!(true)),
        ("'%s has %d'.format(['a', 2])", json!("a has 2")),
        ("sets.contains([1, 2], [2]) && [3, 1].sum() == 4", json!(true)),
        ("math.greatest(1, 3) == 3 && math.ceil(1.2) == 2.0", json!(true)),
        ("!format.dns1123Label().validate('abc').hasValue()", json!(true)),
        ("1 == 1.0 && 1u < 2", json!(true)),
        ("self.a > 0 ? 'yes' : 'no'", json!("yes")),
        ("self.nil == null", json!(true)),
        ("'\\u00e9\\n\\x41' == '\u{e9}\\nA' && r'\\d' == '\\\\d' && b'\\xff' != b''", json!(true)),
        ("Object{spec: Object.spec{replicas: self.a + 2}}", json!({"spec": {"replicas": 3}})),
        (
            "[JSONPatch{op: 'add', path: '/metadata/labels/' + jsonpatch.escapeKey('a/b'), value: 'x'}]",
            json!([{"op": "add", "path": "/metadata/labels/a~1b", "value": "x"}]),
        ),
        ("lists.range(3)", json!([0, 1, 2])),
        ("// a comment\n true", json!(true)),
    ] {
        assert_eq!(evaluate(source), Ok(want), "{source}");
    }
}

#[test]
fn errors_are_those_of_the_api_server() {
    for (source, want) in [
        ("self.zzz > 1", "no such key: zzz"),
        ("self.m['q']", "no such key: q"),
        ("self.l[9]", "index out of bounds: Int(9)"),
        ("self.a + 'x'", "no such overload: '_+_' applied to '(int, string)'"),
        ("1 / 0", "divide by zero"),
        ("9223372036854775807 + 1", "integer overflow"),
        ("self.s.zzz", "no such overload: select on string"),
        (
            "foo > 1",
            "compilation failed: ERROR: <input>:1:1: undeclared reference to 'foo' (in container '')\n | foo > 1\n | ^",
        ),
        (
            "self.a >",
            "compilation failed: ERROR: <input>:1:9: Syntax error: mismatched input '<EOF>' expecting {'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}\n | self.a >\n | ........^",
        ),
        (
            "self.a.frobnicate()",
            "compilation failed: ERROR: <input>:1:8: undeclared reference to 'frobnicate' (in container '')\n | self.a.frobnicate()\n | .......^",
        ),
        ("'a'.matches('(')", "error parsing regexp: regex parse error:\n    (\n    ^\nerror: unclosed group"),
    ] {
        assert_eq!(evaluate(source), Err(want.to_owned()), "{source}");
    }
    for bad in [
        "",
        "1 2",
        "(",
        "a.b(",
        "'abc",
        "\"\\q\"",
        "x = 1",
        "[1,",
        "{1}",
        "has(self)",
        "in",
        "9999999999999999999",
        "self..a",
        "@",
        "a ? b",
    ] {
        assert!(evaluate(bad).unwrap_err().starts_with("compilation failed: ERROR: <input>:1:"), "{bad}");
    }
}

#[test]
fn hostile_sources_end_at_compilation() {
    for (before, middle, after) in [
        ("(", "1", ")"),
        ("[", "1", "]"),
        ("{1:", "1", "}"),
        ("!", "true", ""),
        ("-", "self", ""),
        ("size(", "1", ")"),
        ("self.all(x,", "true", ")"),
        ("true ? ", "1", ": 2"),
        ("true ? 1 : ", "1", ""),
        ("Object{a:", "1", "}"),
        ("", "self", ".a"),
        (".", "self", ""),
        (".", "", ""),
        ("", "self", "[0]"),
        ("", "self", ".trim()"),
        ("", "self", ".map(x, x)"),
        ("1+", "1", ""),
        ("true||", "true", ""),
        ("'", "", ""),
        ("[{(", "", ""),
        ("a<", "", ""),
        ("", "1", ".?a"),
        ("{?", "", ""),
        ("//", "", ""),
    ] {
        for count in [49, 99, 1_000, 10_000] {
            let source = format!("{}{middle}{}", before.repeat(count), after.repeat(count));
            // Whether it compiles does not matter; that it ends, on this thread's stack, does.
            if let Ok(program) = compile(&source, &Environment::new(&["self"])) {
                drop(program.evaluate(&activation(), &Budget::new(100_000)));
            }
        }
    }
}

#[test]
fn hostile_evaluations_end_with_a_clear_error() {
    let doubled = |first: &str, step: &str, end: &str| {
        let binds: String =
            (0..60).map(|i| format!("cel.bind(v{}, {}, ", i + 1, step.replace('v', &format!("v{i}")))).collect();
        format!("cel.bind(v0, {first}, {binds}{}{})", end.replace('v', "v60"), ")".repeat(60))
    };
    let over = "operation cancelled: actual cost limit exceeded";
    let big = "lists.range(2000)";
    for (source, want) in [
        (format!("{big}.all(a, {big}.all(b, {big}.all(c, a + b + c >= 0)))"), over),
        (doubled("'aaaaaaaaaaaaaaaa'", "v + v", "size(v)"), "text is longer than 3145728 bytes"),
        (doubled("[1]", "v + v", "size(v)"), over),
        (doubled("[1, 2]", "[v, v]", "v == v"), over),
        (doubled("[1, 2]", "[v, v]", "v.flatten()"), over),
        (doubled("[1, 2]", "[v, v]", "v"), over),
        ("lists.range(9223372036854775807)".into(), over),
        ("'%.999999999f'.format([1.0])".into(), "precision 999999999 is above 100"),
        ("[1, 'a'].sort()".into(), "sort: elements must be of one comparable type"),
        ("[9223372036854775807, 1].sum()".into(), "integer overflow"),
        ("quantity('1e2147483647')".into(), "\"1e2147483647\" is no quantity that can be computed with"),
        (
            "'a'.matches('(a{1000}){1000}')".into(),
            "error parsing regexp: Compiled regex exceeds size limit of 1048576 bytes.",
        ),
        (
            format!(
                "{big}.map(x, 'a'.replace('a', 'aaaaaaaaaa' + string(x))).join('xxxxxxxxxx').replace('x', 'yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy')"
            ),
            "text is longer than 3145728 bytes",
        ),
    ] {
        assert_eq!(evaluate(&source), Err(want.to_owned()), "{}", source.chars().take(200).collect::<String>());
    }
    let program =
        compile("lists.range(1000).all(a, lists.range(100).all(b, a >= b || true))", &Environment::default()).unwrap();
    let ended = program.evaluate(&Activation::default(), &Budget::default().with_clock(&|| true));
    assert_eq!(ended.unwrap_err(), EvaluationError::TimeExceeded);
    let small = Budget::new(1_000);
    assert_eq!(program.evaluate(&Activation::default(), &small).unwrap_err(), EvaluationError::CostExceeded);
    assert_eq!(small.remaining(), 0);
}

#[test]
fn odd_arguments_never_panic() {
    let values = [
        "0",
        "-1",
        "9223372036854775807",
        "1u",
        "1.5",
        "''",
        "'\u{e9}\u{e9}'",
        "'a'",
        "[]",
        "['a']",
        "[1]",
        "{}",
        "null",
        "true",
        "quantity('1')",
        "timestamp('2024-01-01T00:00:00Z')",
        "duration('1h')",
        "optional.none()",
        "ip('::1')",
        "b'x'",
    ];
    let functions = [
        "charAt",
        "indexOf",
        "lastIndexOf",
        "substring",
        "split",
        "replace",
        "slice",
        "flatten",
        "format",
        "join",
        "matches",
        "find",
        "findAll",
        "add",
        "sub",
        "getHours",
        "compareTo",
        "isLessThan",
        "containsIP",
        "reverse",
        "max",
        "validate",
    ];
    for function in functions {
        for target in values {
            for first in values {
                drop(evaluate(&format!("{target}.{function}({first})")));
                drop(evaluate(&format!("{target}.{function}({first}, -1)")));
                drop(evaluate(&format!("{target}.{function}({first}, 9223372036854775807)")));
            }
        }
    }
    for function in [
        "int",
        "uint",
        "double",
        "string",
        "bytes",
        "bool",
        "duration",
        "timestamp",
        "size",
        "math.abs",
        "math.round",
        "math.bitNot",
        "quantity",
        "isQuantity",
        "semver",
        "url",
        "cidr",
        "isCIDR",
        "base64.decode",
        "lists.range",
        "strings.quote",
    ] {
        for value in values {
            drop(evaluate(&format!("{function}({value})")));
        }
    }
}

#[test]
fn lazy_variables_are_evaluated_when_asked_for() {
    let environment = Environment::new(&["object", "variables"]);
    let fails = compile("object.missing", &environment).unwrap();
    let base = compile("object.replicas + 1", &environment).unwrap();
    let next = compile("variables.base * 2", &environment).unwrap();
    let knot = compile("variables.knot", &environment).unwrap();
    let mut variables = Activation::default();
    variables.set_json("object", &json!({"replicas": 2}));
    for (name, program) in [("fails", &fails), ("base", &base), ("next", &next), ("knot", &knot)] {
        variables.set_lazy("variables", name, program);
    }
    let run = |source: &str| {
        compile(source, &environment).unwrap().evaluate_json(&variables, &Budget::default()).map_err(|e| e.to_string())
    };
    assert_eq!(run("variables.next == 6 && has(variables.base)"), Ok(json!(true)));
    assert_eq!(run("variables.fails"), Err("no such key: missing".into()));
    assert!(run("variables.knot").unwrap_err().contains("depends on too many others"));
    assert_eq!(base.selections("object"), [["replicas"]]);
    assert!(next.uses("variables") && !next.uses("object") && !next.may_be_bool());
    assert!(!compile("'a' + 'b'", &environment).unwrap().may_be_bool());
}
