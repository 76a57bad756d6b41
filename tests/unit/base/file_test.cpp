#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>

#include "base/atomic_file.h"
#include "base/leftovers.h"
#include "base/mapped_file.h"
#include "support/expect_error.h"
#include "support/temp_folder.h"

namespace coterie::base {
namespace {

size_t files_in(const TempFolder& folder) {
  return static_cast<size_t>(std::distance(std::filesystem::directory_iterator(folder.path()), {}));
}

TEST(AtomicFile, AppearsOnlyWhenCommitted) {
  const TempFolder folder;
  const auto target = folder.write("a", "old");
  {
    AtomicFile file(target);
    file.write("new text");
    EXPECT_EQ(file.position(), 8);
    EXPECT_EQ(read_text(target), "old");
    file.commit();
  }
  EXPECT_EQ(read_text(target), "new text");
  EXPECT_EQ(files_in(folder), 1u);
}

TEST(AtomicFile, LeavesNothingWhenAbandoned) {
  const TempFolder folder;
  const auto target = folder.write("a", "old");
  { AtomicFile(target).write("half"); }
  EXPECT_EQ(read_text(target), "old");
  EXPECT_EQ(files_in(folder), 1u);
}

TEST(AtomicFile, TwoWritersDoNotMeet) {
  const TempFolder folder;
  AtomicFile one(folder / "a"), two(folder / "a");
  one.write("one"), two.write("two");
  two.commit();
  expect_error(ErrorKind::bad_input, {"meanwhile"}, [&] { one.commit(); });
  EXPECT_EQ(read_text(folder / "a"), "two") << "what nobody knew of is not replaced";
  EXPECT_EQ(files_in(folder), 1u);
  AtomicFile three(folder / "a"), four(folder / "b", Existing::replaced);
  three.write("three"), four.write("four");
  folder.write("b", "somebody's");
  three.commit(), four.commit();
  EXPECT_EQ(read_text(folder / "a"), "three") << "it was there when three began";
  EXPECT_EQ(read_text(folder / "b"), "four");
}

TEST(Leftovers, OfProcessesThatHaveEndedGo) {
  const TempFolder folder;
  const pid_t child = ::fork();
  if (child == 0) ::_exit(0);
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  const std::string dead = std::to_string(child);
  folder.write("a." + dead + "-3.part", "half");
  folder.write("a." + dead + ".partial/inside", "half");
  const std::vector<std::string> stay = {"a",      "a." + dead + "-.part",  "a." + dead + "-x.part", "a.-1.partial",
                                         "a.part", "b." + dead + "-3.part", "a.1.partial",           "a.partial"};
  for (const std::string& name : stay) folder.write(name, "mine");
  const auto locked = folder.write("a." + dead + "-4.part", "of another machine");
  const int held = ::open(locked.c_str(), O_RDONLY | O_CLOEXEC);
  ASSERT_EQ(::flock(held, LOCK_EX), 0);
  AtomicFile writing(folder / "a");
  EXPECT_EQ(remove_leftovers(folder / "a").size(), 2u);
  EXPECT_EQ(files_in(folder), stay.size() + 2);
  ::close(held);
  EXPECT_EQ(remove_leftovers(folder / "a"), std::vector{locked});
  EXPECT_TRUE(remove_leftovers(folder / "absent/a").empty());
}

TEST(AtomicFile, MissingFoldersAreMadeAndGoAgainWhereItFails) {
  const TempFolder folder;
  { AtomicFile file(folder / "absent/deep/a"); }  // never committed
  EXPECT_FALSE(std::filesystem::exists(folder / "absent"));
  AtomicFile file(folder / "absent/deep/a");
  file.write("x");
  file.commit();
  EXPECT_EQ(read_text(folder / "absent/deep/a"), "x");
  folder.write("file", "x");
  expect_error(ErrorKind::io, {"file"}, [&] { AtomicFile(folder / "file/a"); });
}

TEST(AtomicFile, CannotReplaceAFolder) {
  const TempFolder folder;
  folder.write("a/inside", "x");
  expect_error(ErrorKind::bad_input, {"is a folder"}, [&] { AtomicFile(folder / "a"); });
  EXPECT_EQ(files_in(folder), 1u) << "the temporary is left behind";
}

TEST(AtomicFile, ATargetThatBecomesAFolderIsAnErrorAndLeavesNothing) {
  const TempFolder folder;
  AtomicFile file(folder / "a");
  file.write("x");
  folder.write("a/inside", "x");
  expect_error(ErrorKind::bad_input, {"meanwhile"}, [&] { file.commit(); });
  EXPECT_EQ(files_in(folder), 1u);
}

TEST(AtomicFile, FollowsALinkAndKeepsIt) {
  const TempFolder folder;
  folder.write("real", "old");
  std::filesystem::create_symlink("real", folder / "link");
  std::filesystem::create_symlink("new", folder / "dangling");
  for (const char* name : {"link", "dangling"}) {
    AtomicFile file(folder / name);
    file.write("text");
    file.commit();
    EXPECT_TRUE(std::filesystem::is_symlink(folder / name)) << name;
  }
  EXPECT_EQ(read_text(folder / "real"), "text");
  EXPECT_EQ(read_text(folder / "new"), "text");
}

TEST(AtomicFile, WritesADeviceDirectly) {
  AtomicFile file("/dev/null");
  file.write("text");
  EXPECT_EQ(file.position(), 4);
  file.commit();
  EXPECT_TRUE(std::filesystem::is_character_file("/dev/null"));
}

TEST(AtomicFile, AFullDiskIsAnErrorAndLeavesNothing) {
  const TempFolder folder;
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto handler = ::signal(SIGXFSZ, SIG_IGN);
  rlimit small = before;
  small.rlim_cur = 1000;
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  {
    AtomicFile file(folder / "a");
    const std::string text(2000, 'x');
    expect_error(ErrorKind::io, {"cannot be written"}, [&] { file.write(text); });
  }
  ::setrlimit(RLIMIT_FSIZE, &before);
  ::signal(SIGXFSZ, handler);
  EXPECT_EQ(files_in(folder), 0u);
}

TEST(ReadText, WholeFilesUpToALimit) {
  const TempFolder folder;
  const std::string text(200'000, 'y');
  EXPECT_EQ(read_text(folder.write("a", text)), text);
  EXPECT_EQ(read_text(folder.write("empty", "")), "");
  expect_error(ErrorKind::bad_input, {"larger than the 100 bytes"}, [&] { read_text(folder / "a", 100); });
  expect_error(ErrorKind::not_found, {"absent"}, [&] { read_text(folder / "absent"); });
  expect_error(ErrorKind::bad_input, {"is a folder, expected a file"}, [&] { read_text(folder.path()); });
}

TEST(MappedFile, MapsAndMoves) {
  const TempFolder folder;
  MappedFile file = MappedFile::open(folder.write("a", "abc"));
  EXPECT_EQ(file.size(), 3);
  EXPECT_EQ(static_cast<char>(file.bytes()[1]), 'b');
  const std::byte* data = file.bytes().data();
  MappedFile moved = std::move(file);
  EXPECT_EQ(moved.bytes().data(), data);
  MappedFile other = MappedFile::open(folder.write("b", "other"));
  other = std::move(moved);
  EXPECT_EQ(other.bytes().data(), data);
  EXPECT_EQ(other.path().filename(), "a");
}

TEST(MappedFile, RefusesWhatIsNoFile) {
  const TempFolder folder;
  expect_error(ErrorKind::not_found, {"absent"}, [&] { MappedFile::open(folder / "absent"); });
  expect_error(ErrorKind::bad_input, {"the file is empty"}, [&] { MappedFile::open(folder.write("e", "")); });
  expect_error(ErrorKind::bad_input, {"is a folder, expected a file"}, [&] { MappedFile::open(folder.path()); });
  expect_error(ErrorKind::bad_input, {"expected a regular file"}, [&] { MappedFile::open("/dev/null"); });
  ASSERT_EQ(::mkfifo((folder / "pipe").c_str(), 0600), 0);
  expect_error(ErrorKind::bad_input, {"expected a regular file"}, [&] { MappedFile::open(folder / "pipe"); });
}

}  // namespace
}  // namespace coterie::base
