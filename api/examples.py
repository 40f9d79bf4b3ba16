"""Examples of responses, put together from what their schemas say of each field."""

from collections.abc import Mapping
from typing import Any, Final

_BY_NAME: Final[dict[str, Any]] = {
    "pointer": "/content",
    "detail": "must not be empty",
    "task_id": "019e0c5e-7d2a-7b32-9a51-3f6f0c2b9d10.17",
    "task_ids": "019e0c5e-7d2a-7b32-9a51-3f6f0c2b9d10.17",
    "category": "sci.space",
    "predicted_category": "sci.space",
    "label": "sci.space",
    "model_version": "20newsgroups-1",
    "content": "The shuttle launch was delayed by weather again.",
    "metadata": {"author": "mira"},
    "source": "forum",
    "external_id": "post-4711",
    "confidence": 0.93,
    "revision": 1_795_256_100_000_000,
    "task": "documents.ingest",
    "content_type": "application/json",
    "content_encoding": "utf-8",
    "next_cursor": None,
    "payload": None,
    "payload_base64": None,
    "error": None,
    "errors": None,
    "obstacle": None,
}
"""What fields of these names have in common, whatever the model."""

_BY_FORMAT: Final = {
    "uuid": "019e0c5e-7d2a-7b32-9a51-3f6f0c2b9d10",
    "date-time": "2026-11-21T10:15:00Z",
}
_BY_TYPE: Final[dict[str, Any]] = {"integer": 1, "number": 1.5, "boolean": False, "null": None}


def example(schema: Mapping[str, Any], schemas: Mapping[str, Any], name: str = "") -> Any:
    """Return an example of what a schema describes.

    Args:
        schema: it.
        schemas: the components that it may refer to.
        name: of the field that it is of.
    """
    if reference := schema.get("$ref"):
        return example(schemas[reference.rpartition("/")[2]], schemas, name)
    given = [schema[key] for key in ("example", "const") if key in schema]
    if given := given or schema.get("examples") or schema.get("enum", []):
        return given[0]
    if name in _BY_NAME and schema.get("type") != "array":
        return _BY_NAME[name]
    if choices := schema.get("anyOf"):
        return example(choices[0], schemas, name)
    if schema.get("format") in _BY_FORMAT:
        return _BY_FORMAT[schema["format"]]
    return _structured(schema, schemas, name)


def _structured(schema: Mapping[str, Any], schemas: Mapping[str, Any], name: str) -> Any:
    kind = schema.get("type")
    if kind == "object":
        properties = schema.get("properties", {})
        return {key: example(each, schemas, key) for key, each in properties.items()}
    if kind == "array":
        items = schema.get("prefixItems") or [schema.get("items", {})]
        return [example(each, schemas, name) for each in items]
    if kind == "string":
        return f"… {name.replace('_', ' ')}".strip()
    return _BY_TYPE.get(str(kind))
