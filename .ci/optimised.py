#!/usr/bin/env python3
"""Reads optimised MIR (`rustc --emit=mir`) and names every plain local that is read where nothing may have been written to it.

Code without `unsafe` has none, so what is found here is the compiler's mistake: some versions remove the definition of a comparison
that is still used (rust-lang/rust#158206). Usage: optimised.py FILE.mir...; exit 1 when something was found.
"""

import re
import sys

SCALAR = re.compile(r"^\s*let (?:mut )?(_\d+): (?:bool|char|[iu](?:8|16|32|64|128|size));")
BLOCK = re.compile(r"^    (bb\d+)(?: \(cleanup\))?: \{")
ASSIGN = re.compile(r"^\s+(_\d+) = (.*)$")
STORAGE = re.compile(r"Storage(?:Live|Dead)\((_\d+)\)")
LOCAL = re.compile(r"(?<![A-Za-z0-9_])_\d+\b")
ADDRESSED = re.compile(r"&(?:mut|raw mut|raw const) (_\d+)\b")
TEXT = re.compile(r'"(?:[^"\\]|\\.)*"')


def functions(path):
    """The name and the lines of every function of a file."""
    name, lines = None, []
    for line in open(path, errors="replace"):
        if name is None:
            if line.startswith(("fn ", "const ", "static ")) and line.rstrip().endswith("{"):
                name, lines = line.strip(), []
        elif line.startswith("}"):
            yield name, lines
            name = None
        else:
            lines.append(line)


def parsed(lines):
    """The scalar locals whose address is not taken, and the statements of every block."""
    scalars, blocks, current = set(), {}, None
    for line in lines:
        if current is None:
            if m := SCALAR.match(line):
                scalars.add(m[1])
            elif m := BLOCK.match(line):
                current = blocks.setdefault(m[1], [])
        elif line.startswith("    }"):
            current = None
        elif line.strip():
            current.append(TEXT.sub('""', line))
    for statements in blocks.values():
        for line in statements:
            scalars.difference_update(ADDRESSED.findall(line))
    return scalars, blocks


def step(statements, unwritten, scalars, found=None):
    """What may be unwritten after a block; reads of such locals are put into `found`."""
    for line in statements:
        if m := STORAGE.search(line):
            unwritten |= {m[1]} & scalars
            continue
        assigned = ASSIGN.match(line)
        if found is not None:
            for local in set(LOCAL.findall(assigned[2] if assigned else line)) & unwritten:
                found.setdefault(local, line.strip())
        if assigned:
            unwritten.discard(assigned[1])
    return unwritten


def unwritten_reads(lines):
    """Locals that are read where, on some way from the function's beginning, nothing was written to them."""
    scalars, blocks = parsed(lines)
    if not scalars or "bb0" not in blocks:
        return {}
    entry, work = {"bb0": set(scalars)}, ["bb0"]
    while work:
        block = work.pop()
        after = step(blocks[block], set(entry[block]), scalars)
        for following in set(re.findall(r"\bbb\d+\b", blocks[block][-1] if blocks[block] else "")) & set(blocks):
            if following not in entry or not after <= entry[following]:
                entry[following] = entry.get(following, set()) | after
                work.append(following)
    found = {}
    for block, unwritten in entry.items():
        step(blocks[block], set(unwritten), scalars, found)
    return found


def main(paths):
    read = wrong = 0
    for path in paths:
        for name, lines in functions(path):
            read += 1
            for local, where in unwritten_reads(lines).items():
                wrong += 1
                print(f"{path}: {name[:200]}\n    {local} is read and never written: {where[:200]}")
    print(f"{read} functions read, {wrong} locals read without having been written", file=sys.stderr)
    return 1 if wrong or not read else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
