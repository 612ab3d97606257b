#!/usr/bin/env python3
"""Writes reference values of the transcendental instructions, computed with mpmath, to standard output.

One value a line: instruction, ST(1) or -, ST(0) (80-bit patterns), then sign, exponent and 128-bit significand of the
result, truncated, with the lowest bit set if anything was cut off. Argument: values for each instruction.
"""
import random
import sys
from mpmath import mp, mpf, atan2, cos, floor, ldexp, log, nint, pi, sin, tan

mp.prec = 1000
random.seed(87)
LN2 = log(2)


def log2(x):
    mantissa, exponent = mp.frexp(x)
    return mpf(exponent - 1) if mantissa == 0.5 else log(x) / LN2


def pattern(negative, exponent, significand):
    return negative << 79 | (exponent + 16383) << 64 | significand


def value(bits):
    magnitude = ldexp(mpf(bits & (1 << 64) - 1), (bits >> 64 & 0x7FFF) - 16383 - 63)
    return -magnitude if bits >> 79 else magnitude


def nearest(x):
    exponent = int(floor(log(abs(x)) / LN2))
    return pattern(int(x < 0), exponent, min(int(nint(ldexp(abs(x), 63 - exponent))), (1 << 64) - 1))


def significand():
    kind = random.randrange(5)
    if kind == 0:
        return 1 << 63 | random.getrandbits(63) >> random.randrange(64)
    if kind == 1:
        return (1 << 64) - 1 - (random.getrandbits(63) >> random.randrange(64))
    return 1 << 63 | random.getrandbits(63)


def number(low, high):
    return pattern(random.getrandbits(1), random.randint(low, high), significand())


def positive(low, high):
    return number(low, high) & (1 << 79) - 1


def angle():
    kind = random.randrange(4)
    if kind == 0:
        # As near to a multiple of half pi as the format allows.
        return nearest(pi / 2 * random.getrandbits(random.randint(1, 62)) + pi / 2)
    if kind == 1:
        return number(40, 62)
    return number(-90, 3)


def exponent():
    return number(random.choice([-200, -70, -10, -2]), -1)


def near_one():
    kind = random.randrange(4)
    if kind == 0:
        return pattern(0, 0, 1 << 63 | 1 + (random.getrandbits(63) >> random.randrange(1, 64)))
    if kind == 1:
        return pattern(0, -1, (1 << 64) - 1 - (random.getrandbits(63) >> random.randrange(1, 64)))
    return positive(random.choice([-16000, -4, -1]), random.choice([16000, 4, 0]))


def small():
    while True:
        bits = number(random.choice([-300, -80, -20, -5]), -2)
        if abs(value(bits)) < 0.29:
            return bits


def point():
    kind = random.randrange(3)
    if kind == 0:
        return number(-100, 100), number(-100, 100)
    if kind == 1:
        x = number(0, 0)
        return nearest(value(x) * random.randint(1, 17) / 16), x
    return number(-4, 4), number(-4, 4)


def moderate():
    return number(-60, 60)


FUNCTIONS = {
    "fsin": (lambda: (None, angle()), lambda y, x: sin(x)),
    "fcos": (lambda: (None, angle()), lambda y, x: cos(x)),
    "fptan": (lambda: (None, angle()), lambda y, x: tan(x)),
    "f2xm1": (lambda: (None, exponent()), lambda y, x: mp.expm1(x * LN2)),
    "fyl2x": (lambda: (moderate(), near_one()), lambda y, x: y * log2(x)),
    "fyl2xp1": (lambda: (moderate(), small()), lambda y, x: y * mp.log1p(x) / LN2),
    "fpatan": (point, atan2),
}


def main():
    for name, (operands, function) in FUNCTIONS.items():
        for _ in range(int(sys.argv[1])):
            y, x = operands()
            result = function(None if y is None else value(y), value(x))
            magnitude = abs(result)
            if magnitude == 0:
                continue
            power = int(floor(log(magnitude) / LN2))
            scaled = ldexp(magnitude, 127 - power)
            bits = int(floor(scaled))
            bits |= int(mpf(bits) != scaled)
            first = "-" if y is None else f"{y:020x}"
            print(name, first, f"{x:020x}", "-" if result < 0 else "+", power, f"{bits:032x}")


main()
