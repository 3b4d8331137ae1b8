//! Where a container could be given devices of a plugin that tells which NUMA nodes they are near. Pure.

use super::book::{Book, Wish};
use super::plugin::Resource;
use crate::topology::{Hint, Nodes, Supply};

/// `None` where it does not matter: no device is near any node.
pub(super) fn of(book: &Book, wish: &Wish<'_>, resource: &Resource, machine: Nodes) -> Option<Vec<Hint>> {
    if resource.nodes.is_empty() {
        return None;
    }
    // One that is near no node in particular counts for none.
    let nodes = |id: &String| resource.nodes.get(id).copied().unwrap_or_default();
    let Ok((reused, free)) = book.free(wish, &resource.devices) else { return Some(vec![]) };
    let supply = Supply {
        all: resource.devices.keys().map(nodes).collect(),
        free: free.iter().map(nodes).collect(),
        reused: reused.iter().filter_map(|id| resource.nodes.get(id).copied()).collect(),
    };
    Some(supply.hints(machine, wish.count, |nodes, least| nodes.count() == least))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_wanted_near_nodes_that_have_enough_of_them() {
        let on = |numbers: &[i64]| numbers.iter().filter_map(|own| Nodes::one(*own)).collect::<Nodes>();
        let near = [("a", on(&[0])), ("b", on(&[0])), ("c", on(&[1])), ("d", on(&[0, 1]))];
        let mut resource = Resource::default();
        resource.devices = ["a", "b", "c", "d", "e"].map(|id| (id.to_owned(), true)).into();
        resource.nodes = near.map(|(id, nodes)| (id.to_owned(), nodes)).into();
        let mut book = Book::default();
        let wish = |pod, count| Wish { pod, container: "c", resource: "r", count, before: &[] };
        let hints = |book: &Book, resource: &Resource, count| {
            let all = of(book, &wish("p", count), resource, on(&[0, 1]))?;
            Some(all.into_iter().filter_map(|hint| Some((hint.nodes?, hint.is_preferred))).collect::<Vec<_>>())
        };
        let (first, second, both) = (on(&[0]), on(&[1]), on(&[0, 1]));
        assert_eq!(hints(&book, &resource, 2), Some(vec![(first, true), (second, true), (both, false)]));
        assert_eq!(hints(&book, &resource, 3), Some(vec![(first, true), (both, false)]));
        book.give(&wish("q", 1), ["d".to_owned()].into());
        assert_eq!(hints(&book, &resource, 2), Some(vec![(first, true), (both, false)]), "one is another's");
        assert_eq!(hints(&book, &resource, 5), Some(vec![]), "there are not as many");
        resource.nodes.clear();
        assert_eq!(hints(&book, &resource, 2), None);
    }
}
