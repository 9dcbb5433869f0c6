"""Values of the engine's registers in words, for messages."""

from hdl.registers import engine_map
from hdl.registers.types import Register, RegisterField


def describe(register: Register, value: int) -> str:
    """Return a register in words: `STATUS 0x00000082 (SELF_TEST_DONE, FAULT)`."""
    prefix = f"{register.name}_"
    words = []
    for field in vars(engine_map).values():
        if isinstance(field, RegisterField) and field.name.startswith(prefix):
            name, content = field.name.removeprefix(prefix), field.get(value)
            if field.values:
                if content:
                    words.append(f"{name}={dict(enumerate(field.values)).get(content, content)}")
            elif field.width > 1:
                words.append(f"{name}={content:#x}")
            elif content:
                words.append(name)
    return f"{register.name} {value:#010x} ({', '.join(words) or 'no bit is set'})"
