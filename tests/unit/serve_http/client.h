#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <string>

namespace coterie::serve::test {

/// A client by plain sockets: sends what it is told, byte for byte.
class Client {
 public:
  /// `receive_buffer`: bytes that the system keeps for it; 0: as many as it likes.
  explicit Client(uint16_t port, int receive_buffer = 0);
  explicit Client(const std::string& unix_path);
  ~Client();
  Client(const Client&) = delete;

  bool send(const std::string& bytes);
  /// What comes until `end` is in it, the other side closes, or time is up.
  std::string read_until(const std::string& end, std::chrono::milliseconds most = std::chrono::seconds(10));
  std::string read_exactly(size_t bytes);
  /// All until the other side closes or time is up.
  std::string read_all(std::chrono::milliseconds most = std::chrono::seconds(10));
  /// Whether the other side has closed within the time.
  bool closed(std::chrono::milliseconds most = std::chrono::seconds(10));
  void end_sending();
  void close();

 private:
  int socket_ = -1;
  std::string held_;
};

struct Reply {
  int status = 0;
  std::map<std::string, std::string> headers;  // names in small letters
  std::string body;                            // chunks put together
};
/// Reads one answer, by its length or its chunks.
Reply read_reply(Client& client);
std::string get(const std::string& path, const std::string& headers = "");
std::string post(const std::string& path, const std::string& body, const std::string& headers = "");
/// One request on a connection of its own.
Reply ask(uint16_t port, const std::string& request);

}  // namespace coterie::serve::test
