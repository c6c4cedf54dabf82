"""Chains of operators that rearrange, convert or clip collapse into one."""
