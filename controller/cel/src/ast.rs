//! The syntax tree. Macros are expanded into nodes of their own; chains of operators are flat, so that length is not
//! depth.
use kube_cel::cel::Value;
use kube_cel::cel::common::ast as template;

/// Where a node stands in the source, in bytes.
pub(super) type Position = usize;

/// An expression.
#[derive(Clone, Debug)]
pub(super) enum Expr {
    Literal(Value),
    Ident(String, Position),
    Select {
        operand: Box<Expr>,
        field: Field,
        optional: bool,
    },
    /// `has(operand.field)`
    Has {
        operand: Box<Expr>,
        field: Field,
    },
    Index {
        operand: Box<Expr>,
        index: Box<Expr>,
        optional: bool,
    },
    List(Vec<(Expr, bool)>),
    Map(Vec<Entry>),
    /// `Object.spec{replicas: 3}`
    Message {
        name: String,
        at: Position,
        fields: Vec<(Field, Expr, bool)>,
    },
    Call(Box<Call>),
    Not(Box<Expr>),
    Negate(Box<Expr>),
    And(Vec<Expr>),
    Or(Vec<Expr>),
    /// `first op a op b ...`, from the left.
    Chain {
        first: Box<Expr>,
        rest: Vec<(Operator, Expr)>,
    },
    Conditional(Box<[Expr; 3]>),
    Comprehension(Box<Comprehension>),
    /// `cel.bind(variable, value, body)`
    Bind(Box<Bind>),
    /// `target.optMap(variable, body)`; `flat` is `optFlatMap`.
    OptionalMap {
        bind: Box<Bind>,
        flat: bool,
    },
}

/// A field's name, and what it means when it is escaped (`__namespace__`, `a__dash__b`).
#[derive(Clone, Debug)]
pub(super) struct Field {
    pub(super) name: String,
    pub(super) unescaped: Option<String>,
}

/// An entry of a map literal.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: Expr,
    pub(super) value: Expr,
    pub(super) optional: bool,
}

/// A call. A function of a library has its name in front: `math.ceil`.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) function: String,
    pub(super) at: Position,
    pub(super) target: Option<Expr>,
    pub(super) arguments: Vec<Expr>,
    /// The same call in the tree of the `cel` crate, on variables `@t`, `@0`, `@1`: how libraries are reached.
    pub(super) template: template::IdedExpr,
}

/// Arithmetic and comparisons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operator {
    Add,
    Subtract,
    Multiply,
    Divide,
    Modulo,
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    In,
}

/// What a macro over a list or map does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Macro {
    All,
    Exists,
    ExistsOne,
    Filter,
    Map,
    TransformList,
    TransformMap,
    TransformMapEntry,
}

/// `range.macro(variables, condition, body)`
#[derive(Clone, Debug)]
pub(super) struct Comprehension {
    pub(super) kind: Macro,
    pub(super) range: Expr,
    pub(super) first: String,
    pub(super) second: Option<String>,
    pub(super) condition: Option<Expr>,
    pub(super) body: Expr,
}

/// A variable with a value inside a body.
#[derive(Clone, Debug)]
pub(super) struct Bind {
    pub(super) variable: String,
    pub(super) value: Expr,
    pub(super) body: Expr,
}

impl Expr {
    /// The expressions directly below, each with the variables that it alone sees.
    pub(super) fn children(&self) -> Vec<(&Expr, Vec<&str>)> {
        let plain = |expr| (expr, Vec::new());
        match self {
            Self::Literal(_) | Self::Ident(..) => Vec::new(),
            Self::Select { operand, .. } | Self::Has { operand, .. } => vec![plain(&**operand)],
            Self::Index { operand, index, .. } => vec![plain(&**operand), plain(&**index)],
            Self::List(items) => items.iter().map(|(item, _)| plain(item)).collect(),
            Self::Map(entries) => entries.iter().flat_map(|entry| [plain(&entry.key), plain(&entry.value)]).collect(),
            Self::Message { fields, .. } => fields.iter().map(|(_, value, _)| plain(value)).collect(),
            Self::Call(call) => call.target.iter().chain(&call.arguments).map(plain).collect(),
            Self::Not(operand) | Self::Negate(operand) => vec![plain(&**operand)],
            Self::And(parts) | Self::Or(parts) => parts.iter().map(plain).collect(),
            Self::Chain { first, rest } => {
                std::iter::once(&**first).chain(rest.iter().map(|(_, expr)| expr)).map(plain).collect()
            }
            Self::Conditional(parts) => parts.iter().map(plain).collect(),
            Self::Comprehension(it) => {
                let names: Vec<&str> = std::iter::once(it.first.as_str()).chain(it.second.as_deref()).collect();
                let inner = it.condition.iter().chain([&it.body]).map(|expr| (expr, names.clone()));
                std::iter::once(plain(&it.range)).chain(inner).collect()
            }
            Self::Bind(bind) | Self::OptionalMap { bind, .. } => {
                vec![plain(&bind.value), (&bind.body, vec![bind.variable.as_str()])]
            }
        }
    }
}
