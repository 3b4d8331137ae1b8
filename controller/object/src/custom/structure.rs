//! A structural schema as types of [`Schema`], which server-side apply and OpenAPI walk.
use super::node::{Additional, Kind, Node};
use crate::schema::{Field, ListKind, Node as TypeNode, PatchKind, Scalar, Schema, Shape, Type, TypeId};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
/// What every kind exchanges besides its own type.
const SHARED: [&str; 4] = ["ObjectMeta", "ListMeta", "Status", "DeleteOptions"];

/// The types of a custom resource, and the one of its objects.
pub(crate) fn of(node: &Node, type_name: &str) -> (Schema, TypeId) {
    let mut builder = Builder { schema: Schema::default() };
    builder.copy_shared();
    let root = builder.object(node, type_name, true);
    builder.schema.names.insert(type_name.into(), root);
    (builder.schema, root)
}

struct Builder {
    schema: Schema,
}

impl Builder {
    /// Copies what objects' metadata is made of from the built-in types.
    fn copy_shared(&mut self) {
        let builtin = Schema::builtin();
        let mut open: Vec<TypeId> = SHARED.iter().filter_map(|name| builtin.find(&format!("{META}.{name}"))).collect();
        let mut wanted = BTreeSet::new();
        while let Some(id) = open.pop() {
            if wanted.insert(id) {
                builtin.get(id).nodes().for_each(|node| open.extend(referred(node)));
            }
        }
        let places: HashMap<TypeId, TypeId> = wanted.iter().copied().zip((0u32..).map(TypeId)).collect();
        for id in wanted {
            let mut copy = builtin.get(id).clone();
            copy.nodes_mut().for_each(|node| refer(node, &places));
            let place = places.get(&id).copied().unwrap_or(id);
            self.schema.names.insert(Arc::clone(&copy.name), place);
            self.schema.types.push(copy);
        }
    }

    fn add(&mut self, kind: Type) -> TypeId {
        let id = TypeId(u32::try_from(self.schema.types.len()).unwrap_or(u32::MAX));
        self.schema.types.push(kind);
        id
    }

    fn object(&mut self, node: &Node, name: &str, is_resource: bool) -> TypeId {
        let mut fields: Vec<Field> = Vec::with_capacity(node.properties.len() + 3);
        for (key, property) in &node.properties {
            if is_resource && matches!(key.as_str(), "apiVersion" | "kind" | "metadata") {
                continue;
            }
            let required = node.constraint().required.iter().any(|required| required == key);
            fields.push(self.field(key, property, required));
        }
        if is_resource {
            for key in ["apiVersion", "kind"] {
                fields.push(plain(key, TypeNode::Scalar(Scalar::String)));
            }
            if let Some(id) = self.schema.find(&format!("{META}.ObjectMeta")) {
                fields.push(plain("metadata", TypeNode::Ref(id)));
            }
        }
        fields.sort_by(|a, b| a.name.cmp(&b.name));
        let atomic = node.map_atomic == Some(true);
        let (name, is_open) = (name.into(), node.keeps_unknown());
        self.add(Type { name, atomic, is_open, shape: Shape::Struct(fields) })
    }

    fn field(&mut self, name: &str, node: &Node, required: bool) -> Field {
        let mut field = plain(name, self.node(node));
        field.required = required;
        field.list_stated = node.list.is_some();
        field.list = node.list.clone().unwrap_or(ListKind::Atomic);
        field.atomic = node.map_atomic;
        field
    }

    fn node(&mut self, node: &Node) -> TypeNode {
        match node.kind {
            Kind::Any => TypeNode::Deduced,
            Kind::String => TypeNode::Scalar(Scalar::String),
            Kind::Integer => TypeNode::Scalar(Scalar::Int64),
            Kind::Number => TypeNode::Scalar(Scalar::Number),
            Kind::Boolean => TypeNode::Scalar(Scalar::Bool),
            Kind::IntOrString => TypeNode::Scalar(Scalar::IntOrString),
            Kind::Array => {
                let item = node.items.as_ref().map_or(TypeNode::Deduced, |item| self.node(item));
                TypeNode::List(Box::new(item))
            }
            Kind::Object => match &node.additional {
                Additional::Schema(value) => TypeNode::Map(Box::new(self.node(value))),
                Additional::Any => TypeNode::Deduced,
                Additional::None if node.properties.is_empty() && node.preserve && !node.embedded => TypeNode::Deduced,
                Additional::None => TypeNode::Ref(self.object(node, "object", node.embedded)),
            },
        }
    }
}

fn plain(name: &str, node: TypeNode) -> Field {
    Field {
        name: name.into(),
        node,
        required: false,
        list: ListKind::Atomic,
        list_stated: false,
        atomic: None,
        patch: PatchKind::default(),
    }
}

fn referred(node: &TypeNode) -> Option<TypeId> {
    match node {
        TypeNode::Ref(id) => Some(*id),
        TypeNode::List(item) | TypeNode::Map(item) => referred(item),
        TypeNode::Scalar(_) | TypeNode::Object | TypeNode::Any | TypeNode::Deduced => None,
    }
}

fn refer(node: &mut TypeNode, places: &HashMap<TypeId, TypeId>) {
    match node {
        TypeNode::Ref(id) => *id = places.get(id).copied().unwrap_or(*id),
        TypeNode::List(item) | TypeNode::Map(item) => refer(item, places),
        TypeNode::Scalar(_) | TypeNode::Object | TypeNode::Any | TypeNode::Deduced => {}
    }
}
