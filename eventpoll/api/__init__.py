"""What can be called over HTTP, one file a subject.

May use: profiles, service, web, access, delivery, sets, store, errors.
"""
