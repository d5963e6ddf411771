"""The pages for people, and the tests that hold them to the product."""
