"""The parts of SentencePiece's model file that are read or changed here, as protobuf messages.

The message classes are built when this module is imported, from field numbers of sentencepiece_model.proto. The ones
that the sentencepiece package brings demand a protobuf as new as the one that generated them; these work with any.
Fields that are not named here are kept when a model is written back.
"""

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_Field = descriptor_pb2.FieldDescriptorProto
_KINDS = {
    "int32": _Field.TYPE_INT32,  # enumerations too: the same on the wire
    "bool": _Field.TYPE_BOOL,
    "float": _Field.TYPE_FLOAT,
    "string": _Field.TYPE_STRING,
    "bytes": _Field.TYPE_BYTES,
}
_PACKAGE = "mvjax.sentencepiece"
_MESSAGES: dict[str, list[tuple[int, str, str, str | None]]] = {
    "Piece": [(1, "piece", "string", None), (2, "score", "float", None), (3, "type", "int32", "1")],
    "TrainerSpec": [
        (3, "model_type", "int32", "1"),
        (35, "byte_fallback", "bool", "false"),
        (40, "unk_id", "int32", "0"),
        (41, "bos_id", "int32", "1"),
        (42, "eos_id", "int32", "2"),
        (43, "pad_id", "int32", "-1"),
    ],
    "NormalizerSpec": [
        (2, "precompiled_charsmap", "bytes", None),
        (3, "add_dummy_prefix", "bool", "true"),
        (4, "remove_extra_whitespaces", "bool", "true"),
    ],
    "Model": [
        (1, "pieces", "Piece", None),
        (2, "trainer_spec", "TrainerSpec", None),
        (3, "normalizer_spec", "NormalizerSpec", None),
    ],
}

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""Types of pieces."""
UNIGRAM, BPE = 1, 2
"""Types of models."""


def _build() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="mvjax/sentencepiece.proto", package=_PACKAGE, syntax="proto2")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, field, kind, default in fields:
            added = message.field.add(name=field, number=number, label=_Field.LABEL_OPTIONAL)
            if kind in _KINDS:
                added.type = _KINDS[kind]
            else:
                added.type, added.type_name = _Field.TYPE_MESSAGE, f".{_PACKAGE}.{kind}"
            if field == "pieces":
                added.label = _Field.LABEL_REPEATED
            if default is not None:
                added.default_value = default
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.Model"))


Model = _build()
"""A whole model file: `pieces`, `trainer_spec`, `normalizer_spec`."""
