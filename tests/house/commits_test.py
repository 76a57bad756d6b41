"""scripts/check_commits.py finds titles that are too long or have two reasons."""

import subprocess
import unittest

import check_commits
from trees import TreeTest


class Commits(TreeTest):
    def setUp(self):
        super().setUp()
        self.make_git()
        self.first = self.commit("x" * 100)
        self.write({"scripts/commits.toml": f'since = "{self.first}"\n'})

    def git(self, *arguments: str) -> str:
        identity = ["-c", "user.name=N", "-c", "user.email=n@example.org"]
        return subprocess.run(["git", "-C", str(self.root), *identity, *arguments], check=True, capture_output=True,
                              text=True).stdout.strip()

    def commit(self, message: str) -> str:
        self.git("commit", "--quiet", "--allow-empty", "--no-verify", "-m", message)
        return self.git("rev-parse", "HEAD")

    def refused(self, message: str) -> str:
        self.commit(message)
        code, said = self.run_script(check_commits)
        self.assertEqual(code, 1, "the fault was not found")
        return said

    def test_good_titles_pass_and_older_ones_are_left(self):
        self.commit("A title of one reason\n\nAnd why; at length.")
        self.commit("y" * 72)
        self.assertEqual(self.run_script(check_commits), (0, ""))

    def test_a_long_title(self):
        self.assertIn("the title has 73 characters; the limit is 72", self.refused("y" * 73))

    def test_two_reasons(self):
        self.assertIn("two reasons", self.refused("One thing; another"))

    def test_a_full_stop(self):
        self.assertIn("ends with a full stop", self.refused("One thing."))

    def test_a_range(self):
        self.commit("z" * 80)
        last = self.commit("Good")
        self.assertEqual(self.run_script(check_commits, f"{last}~1..{last}"), (0, ""))
        self.assertEqual(self.run_script(check_commits, f"{self.first}..{last}")[0], 1)

    def test_a_range_that_is_none(self):
        self.assertEqual(self.run_script(check_commits, "nowhere..HEAD")[0], 1)

    def test_a_start_that_is_not_in_the_history(self):
        self.write({"scripts/commits.toml": f'since = "{"0" * 40}"\n'})
        code, said = self.run_script(check_commits)
        self.assertEqual(code, 1)
        self.assertIn("is not among the commits before HEAD", said)


if __name__ == "__main__":
    unittest.main()
