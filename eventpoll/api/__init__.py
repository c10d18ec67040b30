"""The HTTP endpoints, one file for each subject.

May use: profiles, service, web, access, delivery, sets, store, errors.
"""
