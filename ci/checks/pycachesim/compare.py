"""Runs the same traces through `staleline replay` and through pycachesim, and compares what they count.

The two count differently in three places, which this program evens out:

- pycachesim does not take a store that hits for a use of its line, the cache model does, as hardware does. Under LRU each
  store is therefore preceded by a load of the same bytes here; under FIFO, where uses do not matter, stores go in as they are.
- It counts a store that misses as a miss of the load that allocates, and a store that hits not at all.
- What it calls an eviction is that of a dirty line: a write-back of ours. Evictions of either kind follow from its fills and
  what is left in it.
"""

import json
import random
import subprocess
import sys
import tempfile

from cachesim import Cache, CacheSimulator, MainMemory

SIZES = [(64, 64, 8), (64, 1, 4), (32, 4, 2), (128, 16, 1), (16, 7, 3), (256, 2, 16)]
COUNTS = ["load_hits", "load_misses", "store_hits", "store_misses", "evictions", "writebacks"]


def accesses(line, sets, ways, count, stores, rng):
    """Random (is a store, address, length) in memory four times the cache's size, with streaks and with a hot part."""
    memory = line * max(sets * ways * 4, 64)
    stream = 0
    for _ in range(count):
        length = rng.choice([1, 2, 4, 8, 8, 8, line, line + line // 2])
        kind = rng.randrange(4)
        if kind == 0:
            stream = (stream + length) % memory
            address = stream
        elif kind == 1:
            address = rng.randrange(memory)
        else:
            address = rng.randrange(max(memory // 8, 1))
        yield rng.random() < stores, min(address, memory - length), length


def trace(line, sets, ways, policy, ops):
    """The accesses as a trace, and the size of its memory."""
    memory = line * max(sets * ways * 4, 64)
    yield f"config line={line} sets={sets} ways={ways} policy={policy} write=back alloc=yes mem={memory}"
    for store, address, length in ops:
        yield f"store 0 {address:#x} {'5a' * length}" if store else f"load 0 {address:#x} {length}"


def ours(program, lines):
    """What `staleline replay` counts."""
    with tempfile.NamedTemporaryFile("w", suffix=".trace") as file:
        file.write("\n".join(lines) + "\n")
        file.flush()
        done = subprocess.run([program, "replay", file.name], stdout=subprocess.PIPE, check=True)
    stats = json.loads(done.stdout)["stats"]
    return {name: stats[name] for name in COUNTS}


def theirs(line, sets, ways, policy, ops):
    """What pycachesim counts, in our terms."""
    cache = Cache("L1", sets, ways, line, policy.upper())
    memory = MainMemory()
    memory.load_to(cache)
    memory.store_from(cache)
    simulator = CacheSimulator(cache, memory)
    counts = dict.fromkeys(COUNTS, 0)
    for store, address, length in ops:
        hits, misses = cache.backend.HIT_count, cache.backend.MISS_count
        if not store:
            # A list, since the binding reads a single address into half of a long.
            simulator.load([address], length=length)
            counts["load_hits"] += cache.backend.HIT_count - hits
            counts["load_misses"] += cache.backend.MISS_count - misses
            continue
        # Line by line, so that a store's second line does not take the first away between its load and its store.
        end = address + length
        while address < end:
            part = min(end, (address // line + 1) * line) - address
            misses = cache.backend.MISS_count
            if policy == "lru":
                simulator.load([address], length=part)
            simulator.store([address], length=part)
            missed = cache.backend.MISS_count - misses
            counts["store_misses"] += missed
            counts["store_hits"] += 1 - missed
            address += part
    resident = len(cache.backend.cached) // line
    counts["evictions"] = cache.backend.MISS_count - resident
    counts["writebacks"] = cache.backend.EVICT_count
    return counts


def main():
    program, count = sys.argv[1], int(sys.argv[2])
    differences = 0
    compared = 0
    distinct = 0
    for number, (line, sets, ways) in enumerate(SIZES):
        for stores in (0.0, 0.3, 1.0):
            rng = random.Random(1000 * number + int(stores * 10))
            ops = list(accesses(line, sets, ways, count, stores, rng))
            counted = {}
            for policy in ("lru", "fifo"):
                mine = ours(program, trace(line, sets, ways, policy, ops))
                reference = theirs(line, sets, ways, policy, ops)
                compared += 1
                counted[policy] = mine
                if mine != reference:
                    differences += 1
                    print(f"line={line} sets={sets} ways={ways} policy={policy} stores={stores}: different")
                    for name in COUNTS:
                        if mine[name] != reference[name]:
                            print(f"  {name}: staleline {mine[name]}, pycachesim {reference[name]}")
            # The traces tell the policies apart, so that equal counts mean something.
            distinct += counted["lru"] != counted["fifo"]
    print(f"pycachesim: {compared} traces of {count} accesses, {differences} differ")
    if distinct < len(SIZES):
        print(f"only {distinct} traces tell LRU from FIFO: too few accesses to compare anything")
        differences += 1
    return 1 if differences else 0


sys.exit(main())
