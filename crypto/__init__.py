"""The maths: integers, bytes and group elements. Nothing here knows a network, a file, a clock or a firm."""
