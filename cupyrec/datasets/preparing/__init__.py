"""From raw files to prepared data: parsing, vocabularies, and the job that writes shards and can be resumed."""
