"""The people: what each party holds, what it may do, and the door where data leaves."""
