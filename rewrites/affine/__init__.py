"""Chains of additions and multiplications by constants become one."""
