"""Floor 2, below the data: language models that are asked for a reply, as teachers and as judges.

chat_client   a model behind an OpenAI-compatible URL: concurrent, patient, cached
reply_cache   replies by what was asked, on disk
rubrics       what a judge is asked, and how its grade is read
"""
