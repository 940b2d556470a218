"""Discovery: where other nodes may be reached. It yields addresses to try, and no more.

A sighting is a rumour: whoever answers there must still prove who it is, and
whether it lives is for the membership protocol to find out. So nothing here
keeps state that matters, and every source may repeat itself or be wrong.
"""
