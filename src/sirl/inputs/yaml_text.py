"""YAML that users write, read strictly: what it does not say clearly is one line, never another experiment."""

from __future__ import annotations

from typing import Any

import yaml


def parse_yaml(text: str, loader: type[yaml.SafeLoader] | None = None) -> Any:
    """What a YAML text says, by a safe loader that refuses a key given twice unless there is another `loader`.

    Raises:
        ValueError: it is no YAML; the reason in one line.
    """
    try:
        data = yaml.load(text, loader or StrictLoader)
        _refuse_loops(data)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except (yaml.YAMLError, ValueError, KeyError, AttributeError) as error:
        # what is tagged (`!!bool maybe`), and a date that is none, PyYAML leaves to whatever Python raises
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from None
    return data


def _refuse_loops(value: Any, above: tuple[int, ...] = (), done: set[int] | None = None) -> None:
    """Raise ValueError where an anchor holds itself, of which nothing can be written down."""
    done = set() if done is None else done
    if id(value) in above:
        raise ValueError("an anchor holds itself")
    if isinstance(value, dict | list) and id(value) not in done:
        for part in value.values() if isinstance(value, dict) else value:
            _refuse_loops(part, (*above, id(value)), done)
        done.add(id(value))


class StrictLoader(yaml.SafeLoader):
    """Safe YAML in which a key given twice is an error, where PyYAML would silently take the last."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Refuse repeated keys, else as usual."""
        seen: set[str] = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="a key must be a text", problem_mark=key.start_mark)
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"key {key.value!r} given twice", problem_mark=key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)
