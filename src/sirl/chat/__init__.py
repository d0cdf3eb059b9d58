"""Conversations as token ids and answers as text: chat templates, and what a model thinks before it answers."""
