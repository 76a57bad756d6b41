#include "base/folders.h"

#include <gtest/gtest.h>

#include "base/atomic_file.h"
#include "base/error.h"
#include "base/plural.h"
#include "support/expect_error.h"
#include "support/temp_folder.h"

namespace coterie::base {
namespace {

namespace fs = std::filesystem;

TEST(FoldersAbove, ThoseThatWereMadeGoUnlessTheyAreKept) {
  TempFolder folder;
  {
    const FoldersAbove made(folder / "a/b/file");
    EXPECT_TRUE(fs::is_directory(folder / "a/b"));
    EXPECT_FALSE(fs::exists(folder / "a/b/file"));
  }
  EXPECT_FALSE(fs::exists(folder / "a"));
  FoldersAbove kept(folder / "a/b/file");
  kept.keep();
  { const FoldersAbove again(folder / "a/b/other"); }
  EXPECT_TRUE(fs::exists(folder / "a/b")) << "it was there before";
  // What somebody else put there meanwhile stays.
  {
    const FoldersAbove made(folder / "c/d/file");
    folder.write("c/other", "");
  }
  EXPECT_FALSE(fs::exists(folder / "c/d"));
  EXPECT_TRUE(fs::exists(folder / "c/other"));
  folder.write("file", "");
  expect_error(ErrorKind::io, {"file/x", "cannot be created"}, [&] { FoldersAbove(folder / "file/x/y"); });
}

TEST(AtomicFiles, MakeTheFoldersAboveThemAndLeaveNoneWithoutCommit) {
  TempFolder folder;
  { AtomicFile(folder / "a/b/c").write("x"); }
  EXPECT_FALSE(fs::exists(folder / "a"));
  write_text(folder / "a/b/c", "x");
  EXPECT_EQ(read_text(folder / "a/b/c"), "x");
  expect_error(ErrorKind::bad_input, {"is a folder"}, [&] { (void)read_text(folder / "a"); });
}

TEST(Plural, OneIsOne) {
  EXPECT_EQ(plural(0, "token"), "0 tokens");
  EXPECT_EQ(plural(1, "token"), "1 token");
  EXPECT_EQ(plural(2, "matrix", "matrices"), "2 matrices");
  EXPECT_EQ(noun(1, "matrix", "matrices"), "matrix");
}

}  // namespace
}  // namespace coterie::base
