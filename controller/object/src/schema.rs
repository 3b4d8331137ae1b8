//! The structural schema: one arena of types that decode, prune, patch, apply and explain walk.
mod parse;

pub use parse::SchemaError;
use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

/// A type's place in its schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TypeId(pub(crate) u32);

/// Types that refer to each other.
#[derive(Debug, Default)]
pub struct Schema {
    pub(crate) types: Vec<Type>,
    pub(crate) names: HashMap<Arc<str>, TypeId>,
}

/// A named type.
#[derive(Clone, Debug)]
pub struct Type {
    /// Full name, as in `io.k8s.api.core.v1.PodSpec`.
    pub name: Arc<str>,
    /// The value has one owner as a whole.
    pub atomic: bool,
    /// Fields that are not named here stay, with whatever they hold.
    pub is_open: bool,
    /// What it is made of.
    pub shape: Shape,
}

/// What a type is made of.
#[derive(Clone, Debug)]
pub enum Shape {
    /// Fields, sorted by name.
    Struct(Vec<Field>),
    /// Another name for a node.
    Alias(Node),
}

/// A field of a struct.
#[derive(Clone, Debug)]
pub struct Field {
    /// Name on the wire.
    pub name: Box<str>,
    /// What it holds.
    pub node: Node,
    /// Whether the published schema demands it.
    pub required: bool,
    /// How lists merge when applied.
    pub list: ListKind,
    /// Whether the list kind was stated, not only assumed.
    pub list_stated: bool,
    /// What the field says about maps: `Some(true)` atomic, `Some(false)` granular.
    pub atomic: Option<bool>,
    /// How strategic merge treats it.
    pub patch: PatchKind,
}

/// What a value may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// A scalar.
    Scalar(Scalar),
    /// A named type.
    Ref(TypeId),
    /// A list.
    List(Box<Node>),
    /// A map with text keys.
    Map(Box<Node>),
    /// Any object.
    Object,
    /// Any value.
    Any,
    /// Any value, whose objects have owners field by field.
    Deduced,
}

/// Scalars.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scalar {
    /// Text.
    String,
    /// RFC 3339, whole seconds.
    Time,
    /// RFC 3339, microseconds.
    MicroTime,
    /// Base64.
    Bytes,
    /// `true` or `false`.
    Bool,
    /// 32-bit integer.
    Int32,
    /// 64-bit integer.
    Int64,
    /// Floating point.
    Number,
    /// 32-bit integer or text.
    IntOrString,
    /// Resource quantity.
    Quantity,
}

/// How a list merges when applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListKind {
    /// As a whole.
    Atomic,
    /// By value.
    Set,
    /// By the values of these keys.
    Map(Vec<Box<str>>),
}

/// How strategic merge treats a field.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PatchKind {
    /// Lists merge instead of being replaced.
    pub merge: bool,
    /// Maps must not be merged, not even without a list.
    pub replace: bool,
    /// `$retainKeys` is honoured.
    pub retain_keys: bool,
    /// Elements of lists are told apart by this key; without one by value.
    pub key: Option<Box<str>>,
}

impl Schema {
    /// The schema of the built-in kinds.
    pub fn builtin() -> &'static Arc<Self> {
        static BUILTIN: OnceLock<Arc<Schema>> = OnceLock::new();
        BUILTIN.get_or_init(|| {
            // The text is part of the binary; a test parses it, so that a broken one never ships.
            Arc::new(Self::parse(include_str!("../generated/schema.tsv")).unwrap_or_default())
        })
    }

    /// Finds a type by its full name.
    pub fn find(&self, name: &str) -> Option<TypeId> {
        self.names.get(name).copied()
    }

    /// The type of an id that came from this schema.
    pub fn get(&self, id: TypeId) -> &Type {
        &self.types[id.0 as usize]
    }

    /// All types with their ids.
    pub fn types(&self) -> impl Iterator<Item = (TypeId, &Type)> {
        (0u32..).map(TypeId).zip(&self.types)
    }

    /// A cursor on a type.
    pub fn cursor(&self, id: TypeId) -> Cursor<'_> {
        Cursor { schema: self, target: Target::Type(id), field: None }
    }
}

impl Type {
    /// Every node that it is made of.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = &Node> {
        let (fields, alias) = match &self.shape {
            Shape::Struct(fields) => (fields.as_slice(), None),
            Shape::Alias(node) => (&[] as &[Field], Some(node)),
        };
        fields.iter().map(|field| &field.node).chain(alias)
    }

    /// The same, for change.
    pub(crate) fn nodes_mut(&mut self) -> impl Iterator<Item = &mut Node> {
        let (fields, alias) = match &mut self.shape {
            Shape::Struct(fields) => (fields.as_mut_slice(), None),
            Shape::Alias(node) => (&mut [] as &mut [Field], Some(node)),
        };
        fields.iter_mut().map(|field| &mut field.node).chain(alias)
    }

    /// The name behind the last dot.
    pub fn short_name(&self) -> &str {
        self.name.rsplit('.').next().unwrap_or(&self.name)
    }

    /// Looks a field up.
    pub fn field(&self, name: &str) -> Option<&Field> {
        match &self.shape {
            Shape::Struct(fields) => fields.binary_search_by(|f| (*f.name).cmp(name)).ok().and_then(|i| fields.get(i)),
            Shape::Alias(_) => None,
        }
    }

    /// The fields, none for an alias.
    pub fn fields(&self) -> &[Field] {
        match &self.shape {
            Shape::Struct(fields) => fields,
            Shape::Alias(_) => &[],
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Target<'a> {
    Type(TypeId),
    Node(&'a Node),
}

/// A position in the schema while walking a value.
#[derive(Clone, Copy, Debug)]
pub struct Cursor<'a> {
    schema: &'a Schema,
    target: Target<'a>,
    field: Option<&'a Field>,
}

/// What stands at a cursor.
#[derive(Clone, Copy, Debug)]
pub enum View<'a> {
    /// A scalar.
    Scalar(Scalar),
    /// An object with known fields.
    Struct(&'a Type),
    /// A list and its elements.
    List(Cursor<'a>),
    /// A map and its values.
    Map(Cursor<'a>),
    /// Any object.
    Object,
    /// Any value.
    Any,
    /// Any value, whose objects have owners field by field.
    Deduced,
}

impl<'a> Cursor<'a> {
    /// Resolves names.
    pub fn view(self) -> View<'a> {
        let mut target = self.target;
        // Aliases never refer in circles; the bound guards against a schema that does.
        for _ in 0..32 {
            let node = match target {
                Target::Type(id) => match &self.schema.get(id).shape {
                    Shape::Struct(_) => return View::Struct(self.schema.get(id)),
                    Shape::Alias(node) => node,
                },
                Target::Node(node) => node,
            };
            return match node {
                Node::Scalar(scalar) => View::Scalar(*scalar),
                Node::Ref(id) => {
                    target = Target::Type(*id);
                    continue;
                }
                Node::List(item) => View::List(self.step(item)),
                Node::Map(item) => View::Map(self.step(item)),
                Node::Object => View::Object,
                Node::Any => View::Any,
                Node::Deduced => View::Deduced,
            };
        }
        View::Any
    }

    fn step(self, node: &'a Node) -> Self {
        Cursor { schema: self.schema, target: Target::Node(node), field: None }
    }

    /// A known field.
    pub fn field(self, name: &str) -> Option<Self> {
        match self.view() {
            View::Struct(kind) => {
                let Some(field) = kind.field(name) else {
                    return kind.is_open.then(|| self.step(&Node::Deduced));
                };
                Some(Cursor { schema: self.schema, target: Target::Node(&field.node), field: Some(field) })
            }
            View::Map(item) => Some(item),
            View::Deduced => Some(self.step(&Node::Deduced)),
            View::Scalar(_) | View::List(_) | View::Object | View::Any => None,
        }
    }

    /// How the list here merges when applied.
    pub fn list_kind(self) -> &'a ListKind {
        self.field.map_or(&ListKind::Atomic, |f| &f.list)
    }

    /// Whether the value here has one owner as a whole.
    pub fn is_atomic(self) -> bool {
        if let Some(atomic) = self.field.and_then(|f| f.atomic) {
            return atomic;
        }
        match self.view() {
            View::Struct(kind) => kind.atomic,
            View::List(_) => *self.list_kind() == ListKind::Atomic,
            View::Map(_) | View::Deduced => false,
            View::Scalar(_) | View::Object | View::Any => true,
        }
    }

    /// How strategic merge treats the value here.
    pub fn patch(self) -> Option<&'a PatchKind> {
        self.field.map(|f| &f.patch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn builtin_schema_parses_and_knows_keys() {
        let schema = Schema::parse(include_str!("../generated/schema.tsv")).unwrap();
        assert!(schema.types.len() > 500);
        let pod = schema.cursor(schema.find("io.k8s.api.core.v1.Pod").unwrap());
        let containers = pod.field("spec").and_then(|c| c.field("containers")).unwrap();
        assert_eq!(containers.list_kind(), &ListKind::Map(vec!["name".into()]));
        assert_eq!(containers.patch().and_then(|p| p.key.as_deref()), Some("name"));
        let View::List(container) = containers.view() else { panic!("a list") };
        let image = container.field("image").unwrap();
        assert!(matches!(image.view(), View::Scalar(Scalar::String)));
        let service = schema.cursor(schema.find("io.k8s.api.core.v1.Service").unwrap());
        assert!(service.field("spec").and_then(|c| c.field("selector")).unwrap().is_atomic());
    }

    #[test]
    fn generated_files_are_fresh() {
        use sha2::Digest as _;
        let mut hash = sha2::Sha256::new();
        hash.update(include_str!("../facts/keys.tsv"));
        hash.update(include_str!("../generated/schema.tsv"));
        let hex: String = hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, include_str!("../generated/inputs.sha256"), "run cargo xtask schema");
    }
}
