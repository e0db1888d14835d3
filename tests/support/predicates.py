"""Takes one marked predicate ("-- predicate: name") at a time out of the policies and functions of a migration."""

import re
from typing import Any

_OBJECT = re.compile(r"^CREATE (?:FUNCTION.*?^(?:\$\$;|AS \$\$ .*?\$\$;)|POLICY [^;]*;)$", re.MULTILINE | re.DOTALL)
_BLOCK = re.compile(r"^(\s*)(AND |)NOT EXISTS \( -- predicate: ([^\n]+)\n.*?-- end$", re.MULTILINE | re.DOTALL)
_LINE = re.compile(r"^(\s*)((?:SELECT CASE WHEN|WHERE|AND|ON|OR) |)(.*?),? -- predicate: (.+)$", re.MULTILINE)


def _without(match: re.Match[str], instant: bool) -> str:
    return "" if instant else f"{match[1]}{match[2]}true"


def mutations(text: str) -> dict[str, tuple[str, str]]:
    """Of a migration: name → the object as it is, and without one predicate."""
    found: dict[str, tuple[str, str]] = {}
    for match in _OBJECT.finditer(text):
        statement = match[0]
        name = re.match(r"CREATE (?:FUNCTION (\S+)\(|POLICY (\S+ ON \S+))", statement)
        assert name is not None
        title = name[1] or name[2]
        for block in _BLOCK.finditer(statement):
            changed = f"{statement[: block.start()]}{block[1]}{block[2]}true{statement[block.end() :]}"
            found[f"{title}: {block[3]}"] = (statement, changed)
        for line in _LINE.finditer(statement):
            if "NOT EXISTS (" in line[0]:
                continue
            one_of_greatest = line[0].split(" -- ")[0].endswith(",")
            changed = f"{statement[: line.start()]}{_without(line, one_of_greatest)}{statement[line.end() :]}"
            found[f"{title}: {line[4]}"] = (statement, changed)
    return found


async def apply(admin: Any, statement: str) -> None:
    if policy := re.match(r"CREATE POLICY (\S+) ON (\S+)", statement):
        await admin.execute(f"DROP POLICY {policy[1]} ON {policy[2]}; {statement}")
    else:
        await admin.execute(statement.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION", 1))
