"""(The study helper is writing this file; written by 05:40.)"""
